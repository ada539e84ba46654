"""Fixtures shared by the tests of all packages, and the settings of a test process."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import nostr_sdk
import pytest
from hypothesis import HealthCheck, settings
from support.process import restored_handlers
from support.relays import find_free_port
from support.scripted_relay import ScriptedRelay, relay_on_thread, scripted_relay

from relay_client.keys import SecretKey
from relay_client.local_relay import LocalRelay

# One thread per test process and per process that a test starts: numpy and torch read this when they are imported.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

gc.disable()  # until all tests are collected


def pytest_collection_finish() -> None:
    """Leave the imported modules and the tests out of garbage collections: they last as long as the process."""
    gc.enable()
    gc.freeze()


settings.register_profile(
    "quick",
    max_examples=25,
    deadline=None,  # the machine may be slow or busy
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,  # the same examples everywhere, so that a failure can be repeated
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=200)
settings.load_profile("quick")

_OF_A_SERVICE = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}

NOW = 1_790_000_000  # a fixed clock, in seconds since 1970


@pytest.fixture
def golden() -> Path:
    """Folder of compatibility data, made by the Rust project's own tools; not part of this repository."""
    folder = os.environ.get("RANDYGPT_GOLDEN")
    if not folder:
        pytest.skip("RANDYGPT_GOLDEN is not set")
    return Path(folder)


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture
def unused_port(free_port: int) -> int:
    """A second free port."""
    while (port := find_free_port()) == free_port:
        pass
    return port


@pytest.fixture
async def relay(free_port: int) -> AsyncIterator[str]:
    """Address of a real relay (nostr-sdk's), in memory; it runs on threads of its own."""
    async with LocalRelay(port=free_port) as running:
        yield running.url


@pytest.fixture
async def nip42_relay(unused_port: int) -> AsyncIterator[str]:
    """Address of a real relay that requires NIP-42 authentication to read and to write."""
    nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
    mode = nostr_sdk.LocalRelayBuilderNip42(mode=nostr_sdk.LocalRelayBuilderNip42Mode.BOTH)
    running = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").port(unused_port).nip42(mode).build()
    await running.run()
    yield f"ws://127.0.0.1:{unused_port}"
    running.shutdown()


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedRelay]:
    """A relay that answers as the test tells it to, on the test's event loop."""
    async with scripted_relay() as running:
        yield running


@pytest.fixture
def threaded_relay() -> Iterator[ScriptedRelay]:
    """A relay that answers as the test tells it to, on a thread of its own."""
    with relay_on_thread() as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def _no_user_settings() -> Iterator[None]:
    """Keep settings, proxies and service manager of the user who runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            ours = name.startswith("RANDYGPT_") and name != "RANDYGPT_GOLDEN"
            if ours or name in _OF_A_SERVICE or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("RANDYGPT_CONFIG", os.devnull)
        yield


@pytest.fixture(scope="session")
def key() -> SecretKey:
    return SecretKey(bytes.fromhex("11" * 32))


@pytest.fixture
def stranger() -> SecretKey:
    return SecretKey(bytes.fromhex("22" * 32))


@pytest.fixture
def now() -> Callable[[], int]:
    return lambda: NOW


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is RANDYGPT_HOME and the current folder, for commands that run in this process."""
    monkeypatch.setenv("RANDYGPT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with restored_handlers():
        yield tmp_path
