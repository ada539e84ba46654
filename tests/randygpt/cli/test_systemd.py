"""Notification of a service manager (sd_notify) and socket activation, without systemd."""

import asyncio
import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from support.command import TIMEOUT_S, environment, invoke, invoke_until_terminated, only_line
from support.gates import gate
from support.models import TEXT, Gated, endless, write_tiny
from support.release_store import ReleaseStore
from support.releases import publish, tiny_sources

from randygpt.cli import systemd
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub
from server.app import run_server
from server.config import ServerConfig
from server.engine import Engine
from server.models import ActiveModel, LoadedModel


class Manager:
    """Notification socket of a service manager. A thread reads it: its queue is short, and a full one blocks."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while message := self._socket.recv(4096):
            self._messages.put(message)

    def receive(self, timeout_s: float = TIMEOUT_S) -> list[str]:
        """Return the lines of one message; raises queue.Empty if none comes."""
        return self._messages.get(timeout=timeout_s).decode().split("\n")

    def receive_until(self, prefix: str) -> list[str]:
        """Return all lines received up to the first that begins with `prefix`, and the rest of its message."""
        deadline = time.monotonic() + TIMEOUT_S
        received: list[str] = []
        while not any(line.startswith(prefix) for line in received):
            assert time.monotonic() < deadline, received
            received += self.receive()
        return received

    def close(self) -> None:
        with self._socket, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
            self._thread.join()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path)) as listening:
        yield listening


# Socket activation: the socket is descriptor 3, and LISTEN_PID is the id of the process itself.
_ACTIVATE = 'LISTEN_FDS=$1 LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; shift; exec 3<&0; exec "$@"'


def run_service(manager: Manager, home: Path, *words: str, client: Callable[[TextIO], None], **variables: str) -> None:
    """Run a command as a service manager does until `client` returns, and receive that it stops."""
    variables = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "100000"} | variables
    invoke_until_terminated(home, *words, client=client, **variables)
    manager.receive_until("STOPPING=1")


@contextlib.contextmanager
def activated(home: Path, *words: str, given: socket.socket) -> Iterator[None]:
    """Start a command with an open socket, and terminate it in the end."""
    with subprocess.Popen(
        ["/bin/sh", "-c", _ACTIVATE, "sh", "1", sys.executable, "-m", "randygpt", *words],
        env=environment(home),
        stdin=given.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(TIMEOUT_S) == 143


@pytest.fixture
def releases(tmp_path: Path, key: SecretKey) -> ReleaseStore:
    return ReleaseStore(home=tmp_path / "home", key=key)


def test_serve_notifies_ready_with_a_model(manager: Manager, releases: ReleaseStore) -> None:
    def watch(_output: TextIO) -> None:
        early = manager.receive_until("STATUS=waiting for a first model")
        early += manager.receive_until("WATCHDOG=1")
        assert "READY=1" not in early
        releases.store.activate(releases.install().id)
        assert "READY=1" in manager.receive_until("STATUS=serving tiny version 1")
        releases.store.activate(releases.install(checkpoint=b"nonsense").id)
        manager.receive_until("STATUS=serving tiny version 1; not swapped: tiny version 2")

    releases.home.mkdir()
    run_service(manager, releases.home, "serve", "--port", "0", client=watch)


def test_follow_without_relay_is_not_ready(manager: Manager, tmp_path: Path, key: SecretKey) -> None:
    def watch(_output: TextIO) -> None:
        assert manager.receive() == ["STATUS=following demo: no version seen yet, 0 of 1 relays"]

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        url = f"ws://127.0.0.1:{closed.getsockname()[1]}"
        words = ("follow", f"{encode_npub(key.pubkey)}/demo", "--relay", url)
        run_service(manager, tmp_path, *words, client=watch, WATCHDOG_USEC="")


def test_follow_notifies_ready_when_subscribed(manager: Manager, tmp_path: Path, key: SecretKey, relay: str) -> None:
    def watch(_output: TextIO) -> None:
        assert "READY=1" in manager.receive_until("STATUS=following demo: version 1, 1 of 1 relays")
        manager.receive_until("WATCHDOG=1")

    asyncio.run(publish([relay], tmp_path / "author", key, tiny_sources()))
    run_service(manager, tmp_path, "follow", f"{encode_npub(key.pubkey)}/demo", "--relay", relay, client=watch)


def test_relay_notifies_ready_when_listening(manager: Manager, tmp_path: Path, free_port: int) -> None:
    def watch(_output: TextIO) -> None:
        assert "READY=1" in manager.receive()
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", free_port)) == 0
        manager.receive_until("WATCHDOG=1")

    run_service(manager, tmp_path, "relay", "--port", str(free_port), client=watch)


def test_train_notifies_ready_after_first_step(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    checkpoint = ("--train-file", str(tmp_path / "text.txt"), "--checkpoint", str(tmp_path / "tiny"))
    shape = ("--dim", "16", "--heads", "2", "--layers", "1", "--block", "32", "--batch", "2")
    for words in (("--iters", "2", *shape), ("--resume", "--iters", "1")):
        done = invoke(tmp_path, "train", *words, *checkpoint, NOTIFY_SOCKET=str(manager.path))
        assert done.returncode == 0, done.stderr
    first = manager.receive()
    assert first[0].startswith("STATUS=iteration 1 of 2, loss ")
    assert first[1:] == ["READY=1", "WATCHDOG=1"]
    *earlier, status, ready = manager.receive_until("STATUS=nothing to do")
    assert "READY=1" not in earlier
    assert (status.startswith("STATUS=nothing to do"), ready) == (True, "READY=1")


async def test_hanging_decode_worker_stops_the_watchdog(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    monkeypatch.setenv("WATCHDOG_USEC", "3000")
    model = endless()
    with gate(TIMEOUT_S) as opened:
        decoder = Gated(model.decoder, opened)
        slow = LoadedModel(language_model=replace(model, decoder=decoder), release_id=None, label="slow")
        async with run_server(ActiveModel(current=slow), None, ServerConfig(), watchdog=systemd.watchdog) as address:
            await asyncio.to_thread(manager.receive_until, "WATCHDOG=1")
            request = asyncio.create_task(asyncio.to_thread(ask, address))
            assert await asyncio.to_thread(decoder.entered.wait, TIMEOUT_S)
            earlier = 0  # messages sent before it hung; a healthy engine never stops sending
            while earlier < 10_000 and await asyncio.to_thread(receives_at_once, manager):
                earlier += 1
            opened.set()
            assert earlier < 10_000
            await asyncio.to_thread(manager.receive_until, "WATCHDOG=1")
            await request


def receives_at_once(manager: Manager) -> bool:
    try:
        manager.receive(timeout_s=0.05)
    except queue.Empty:
        return False
    return True


def ask(address: str) -> str:
    with urllib.request.urlopen(
        address, json.dumps({"prompt": "the", "max_tokens": 3, "temperature": 0}).encode(), TIMEOUT_S
    ) as reply:
        return str(json.load(reply)["text"])


async def test_idle_engine_has_a_heartbeat() -> None:
    engine = Engine(threads=1)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await engine.heartbeat()
    finally:
        engine.close()


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("127.0.0.2", marks=pytest.mark.full)])
def test_serve_uses_the_inherited_socket(tmp_path: Path, host: str) -> None:
    write_tiny(tmp_path / "m.bin")
    with socket.create_server((host, 0)) as given:
        with activated(tmp_path, "serve", "--model", str(tmp_path / "m.bin"), given=given):
            # The connection waits in the backlog until the server accepts it.
            assert ask(f"http://{host}:{given.getsockname()[1]}")
        assert is_open(given)


def is_open(given: socket.socket) -> bool:
    with socket.socket() as client:
        return client.connect_ex(given.getsockname()) == 0


@pytest.mark.parametrize(
    ("count", "said"),
    [
        ("2", "the socket unit opens several sockets"),
        pytest.param("1", "must open a TCP port", marks=pytest.mark.full),
    ],
)
def test_unusable_inherited_socket_is_one_line(tmp_path: Path, count: str, said: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        done = subprocess.run(
            ["/bin/sh", "-c", _ACTIVATE, "sh", count, sys.executable, "-m", "randygpt", "serve"],
            env=environment(tmp_path),
            stdin=other.fileno(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 2
    assert said in only_line(done.stderr)


def test_without_notify_socket_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(status="well", ready=True)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "missing"))
    systemd.notify(status="well", ready=True)
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    assert systemd.activation_socket() is None


def test_notifies_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"randygpt-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(TIMEOUT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        systemd.notify(status="two\nlines", alive=True)
        assert listening.recv(99) == b"STATUS=two lines\nWATCHDOG=1"
