"""Relays of other projects, as processes: PyPI `nostr-relay` (sqlite and LMDB) and npm `@nostr-relay/core`."""

import contextlib
import os
import secrets
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from relay_client.local_relay import LocalRelay
from support.output import read_line

ROOT = Path(__file__).parents[2]
PYTHON_RELAY = ROOT / ".venv-relays" / "bin" / "nostr-relay"
NPM_RELAY = ROOT / "tests" / "relays" / "relay.cjs"
NPM_MODULES = NPM_RELAY.with_name("node_modules")
START_S = 120

_CONFIG = """
DEBUG: false
relay_name: test
storage:
{storage}
  validators: [nostr_relay.validators.is_not_too_large, nostr_relay.validators.is_signed]
verification: {{nip05_verification: disabled}}
gunicorn: {{bind: "127.0.0.1:{port}", workers: 1, loglevel: warning}}
purple: {{host: 127.0.0.1, port: {port}, workers: 1, disable_compression: true}}
authentication: {{enabled: false}}
subscription_limit: 32
max_event_size: 1000000
max_limit: 6000
"""
_STORAGE = {
    "sqlite": "  sqlalchemy.url: sqlite+aiosqlite:///{folder}/events.sqlite3",
    "lmdb": "  class: nostr_relay.storage.kv.LMDBStorage\n  path: {folder}/lmdb\n  map_size: 1000000000",
}


@contextlib.asynccontextmanager
async def running_relay(name: str, folder: Path, port: int) -> AsyncIterator[str]:
    """Run a relay, such as `embedded, disk`, `nostr-relay, lmdb` or `npm, sqlite`; yield its address."""
    if name.startswith("embedded"):
        async with LocalRelay(port=port, folder=folder if "disk" in name else None) as relay:
            yield relay.url
    else:
        manager = npm_relay(folder) if name.startswith("npm") else python_relay(folder, port, name.split(", ")[1])
        with manager as url:
            yield url


def find_free_port() -> int:
    """Return a free port below the range from which the kernel assigns ports."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def python_relay(folder: Path, port: int, storage: str) -> Iterator[str]:
    """Run PyPI's `nostr-relay` on a port, with its data in `folder`; yield its address."""
    text = _CONFIG.format(port=port, storage=_STORAGE[storage].format(folder=folder))
    with configured_python_relay(folder, port, text) as url:
        yield url


@contextlib.contextmanager
def configured_python_relay(folder: Path, port: int, text: str) -> Iterator[str]:
    """Run PyPI's `nostr-relay` with a configuration that names the port; yield its address."""
    config = folder / "relay.yaml"
    config.write_text(text)
    command = [str(PYTHON_RELAY), "-c", str(config), "serve"]
    with _process(command, folder, subprocess.DEVNULL) as process:  # it logs every event: a pipe would be full soon
        deadline = time.monotonic() + START_S
        while not _listens(port):
            assert process.poll() is None, "the relay ended"
            assert time.monotonic() < deadline, "the relay did not start"
            time.sleep(0.1)
        yield f"ws://127.0.0.1:{port}"


@contextlib.contextmanager
def npm_relay(folder: Path) -> Iterator[str]:
    """Run npm's `@nostr-relay/core` with sqlite in memory; yield its address."""
    with _process(["node", str(NPM_RELAY), "0"], folder, subprocess.PIPE) as process:
        assert process.stdout is not None
        address = read_line(process.stdout.fileno(), timeout_s=START_S)
        assert address.startswith("ws://"), "the relay did not start"
        yield address


@contextlib.contextmanager
def _process(command: list[str], folder: Path, stdout: int, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | variables
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=stdout, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=START_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def npm_bunker(folder: Path, relay: str, behavior: str, *, key: bytes, token: str) -> Iterator[str]:
    """Run the remote signer of npm's `@nostr-dev-kit/ndk` at a relay (see bunker.mjs); yield its address."""
    command = ["node", str(NPM_RELAY.with_name("bunker.mjs")), relay, behavior]
    with _process(command, folder, subprocess.PIPE, BUNKER_KEY=key.hex(), BUNKER_TOKEN=token) as process:
        assert process.stdout is not None
        address = read_line(process.stdout.fileno(), timeout_s=START_S)
        assert address.startswith("bunker://"), "the signer did not start"
        yield address
