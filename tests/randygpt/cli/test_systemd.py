"""What a service manager is told, over the socket it listens on; and the port it may hand over. No systemd needed."""

import asyncio
import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, environment, invoke, only_line
from support.gates import gate
from support.models import TEXT, Gated, endless, write_tiny
from support.releases import publish, tiny_sources
from support.shelf import Shelf

from randygpt.cli import systemd
from relay_client.keys import SecretKey, encode_npub
from server.app import run_server
from server.config import ServerConfig
from server.engine import Engine
from server.models import ActiveModel, LoadedModel


class Manager:
    """A service manager's ear. It listens all the time: who has told it ten things that it has not read yet waits."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind(str(self.path))
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while message := self._ear.recv(4096):
            self._heard.put(message)

    def hear(self, wait_s: float = TIMEOUT_S) -> list[str]:
        """The lines of one message; raises queue.Empty if there is none."""
        return self._heard.get(timeout=wait_s).decode().split("\n")

    def hear_until(self, line: str) -> list[str]:
        """All lines up to one, which is among them."""
        heard = []
        while line not in heard:
            heard += self.hear()
        return heard

    def close(self) -> None:
        with self._ear, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
            self._thread.join()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    ear = Manager(tmp_path)
    with contextlib.closing(ear):
        yield ear


# A socket comes as descriptor 3, and the variables name the process; a shell puts both right, and becomes it.
_HAND_OVER = 'LISTEN_FDS=$1 LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; shift; exec 3<&0; exec "$@"'


@contextlib.contextmanager
def service(home: Path, *words: str, given: socket.socket | None = None, **variables: str) -> Iterator[int]:
    """A command as a service manager starts it; gives its process id."""
    command = [sys.executable, "-m", "randygpt", *words]
    with subprocess.Popen(
        ["/bin/sh", "-c", _HAND_OVER, "sh", "1", *command] if given else command,
        env=environment(home) | variables,
        stdin=given.fileno() if given else subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process.pid
        finally:
            process.terminate()
            assert process.wait(TIMEOUT_S) == 143


@pytest.fixture
def shelf(tmp_path: Path, key: SecretKey) -> Shelf:
    return Shelf(home=tmp_path / "home", key=key)


def test_serve_notifies_ready_with_a_model(manager: Manager, shelf: Shelf) -> None:
    with service(shelf.home, "serve", "--port", "0", NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="100000"):
        early = manager.hear_until("STATUS=waiting for a first model")
        early += manager.hear_until("WATCHDOG=1")
        assert "READY=1" not in early
        shelf.store.activate(shelf.install().id)
        assert "READY=1" in manager.hear_until("STATUS=serving tiny version 1")
        shelf.store.activate(shelf.install(checkpoint=b"nonsense").id)
        while not (line := next((line for line in manager.hear() if line.startswith("STATUS=")), "")):
            pass
        assert line.startswith("STATUS=serving tiny version 1; not swapped: tiny version 2")
    manager.hear_until("STOPPING=1")


def test_follow_without_relay_is_not_ready(manager: Manager, tmp_path: Path, key: SecretKey) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        url = f"ws://127.0.0.1:{closed.getsockname()[1]}"
        words = ("follow", f"{encode_npub(key.pubkey)}/demo", "--relay", url)
        with service(tmp_path, *words, NOTIFY_SOCKET=str(manager.path)):
            assert manager.hear() == ["STATUS=following demo: no version seen yet, 0 of 1 relays"]
    manager.hear_until("STOPPING=1")


async def test_follow_notifies_ready_when_subscribed(
    manager: Manager, tmp_path: Path, key: SecretKey, relay: str
) -> None:
    await publish([relay], tmp_path / "author", key, tiny_sources())
    home, words = tmp_path / "home", ("follow", f"{encode_npub(key.pubkey)}/demo", "--relay", relay)
    with service(home, *words, NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="100000"):
        heard = await asyncio.to_thread(manager.hear_until, "STATUS=following demo: version 1, 1 of 1 relays")
        assert "READY=1" in heard
        await asyncio.to_thread(manager.hear_until, "WATCHDOG=1")


def test_relay_notifies_ready_when_listening(manager: Manager, tmp_path: Path, free_port: int) -> None:
    words = ("relay", "--port", str(free_port))
    with service(tmp_path, *words, NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="100000"):
        assert "READY=1" in manager.hear()
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", free_port)) == 0
        manager.hear_until("WATCHDOG=1")


def test_train_notifies_ready_after_first_step(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    checkpoint = ("--train-file", str(tmp_path / "text.txt"), "--checkpoint", str(tmp_path / "tiny"))
    shape = ("--dim", "16", "--heads", "2", "--layers", "1", "--block", "32", "--batch", "2")
    with service(tmp_path, "train", "--iters", "1000000", *shape, *checkpoint, NOTIFY_SOCKET=str(manager.path)):
        first = manager.hear()
        assert first[0].startswith("STATUS=iteration 1 of 1000000, loss ")
        assert first[1:] == ["READY=1", "WATCHDOG=1"]
    resumed = invoke(tmp_path, "train", "--resume", "--iters", "1", *checkpoint, NOTIFY_SOCKET=str(manager.path))
    assert resumed.returncode == 0
    while not (last := manager.hear())[0].startswith("STATUS=nothing to do"):
        assert last[0].startswith("STATUS=iteration ")
    assert last[1:] == ["READY=1"]


async def test_hanging_decode_worker_stops_the_watchdog(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    monkeypatch.setenv("WATCHDOG_USEC", "3000")
    model = endless()
    entered = threading.Event()

    class Noticed(Gated):
        def forward(self, *facts: object) -> object:  # type: ignore[override]
            entered.set()
            return super().forward(*facts)

    with gate(TIMEOUT_S) as opened:
        slow = LoadedModel(
            language_model=replace(model, decoder=Noticed(model.decoder, opened)), release_id=None, label="slow"
        )
        async with run_server(ActiveModel(current=slow), None, ServerConfig(), watchdog=systemd.watchdog) as address:
            await asyncio.to_thread(manager.hear_until, "WATCHDOG=1")
            request = asyncio.create_task(asyncio.to_thread(ask, address))
            await asyncio.to_thread(entered.wait)
            earlier = 0  # what was said before it hung; a healthy one has more to say all the time
            while earlier < 10_000 and await asyncio.to_thread(heard_at_once, manager):
                earlier += 1
            opened.set()
            assert earlier < 10_000
            await asyncio.to_thread(manager.hear_until, "WATCHDOG=1")
            await request


def heard_at_once(manager: Manager) -> bool:
    try:
        manager.hear(wait_s=0.05)
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


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_serve_uses_the_inherited_socket(tmp_path: Path, host: str) -> None:
    write_tiny(tmp_path / "m.bin")
    with socket.create_server((host, 0)) as given:
        with service(tmp_path, "serve", "--model", str(tmp_path / "m.bin"), given=given):
            # It waits in the port's queue until the server is there.
            assert ask(f"http://{host}:{given.getsockname()[1]}")
        assert is_open(given)


def is_open(given: socket.socket) -> bool:
    with socket.socket() as client:
        return client.connect_ex(given.getsockname()) == 0


@pytest.mark.parametrize(
    ("count", "said"), [("2", "the socket unit opens several sockets"), ("1", "must open a TCP port")]
)
def test_unusable_inherited_socket_is_one_line(tmp_path: Path, count: str, said: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        done = subprocess.run(
            ["/bin/sh", "-c", _HAND_OVER, "sh", count, sys.executable, "-m", "randygpt", "serve"],
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


def test_the_abstract_namespace_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"randygpt-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0{name}")
        ear.settimeout(TIMEOUT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        systemd.notify(status="two\nlines", alive=True)
        assert ear.recv(99) == b"STATUS=two lines\nWATCHDOG=1"
