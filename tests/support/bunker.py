"""A remote signer (NIP-46) that follows a script, and a relay in front of another that loses messages."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.local_relay import LocalRelay

TOKEN = "5eed-of-the-pairing"  # noqa: S105 (planted)
Reply = dict[str, str]
Sign = Callable[["Bunker", dict[str, Any]], AsyncIterator[Reply]]  # gets the draft


async def signs(bunker: "Bunker", draft: dict[str, Any], key: SecretKey | None = None) -> AsyncIterator[Reply]:
    tags = tuple(map(tuple, draft["tags"]))
    made = EventDraft(kind=draft["kind"], created_at=draft["created_at"], tags=tags, content=draft["content"])
    yield {"result": made.sign(key or bunker.user).to_json().decode()}


@dataclass(slots=True)
class Bunker:
    """State of one signer; tests read and change it while it runs."""

    relay: str
    key: SecretKey = field(default_factory=SecretKey.generate)
    user: SecretKey = field(default_factory=SecretKey.generate)  # not the signer's own key
    sign: Sign = signs
    asked: list[dict[str, Any]] = field(default_factory=list, repr=False)  # requests, decrypted
    frames: list[bytes] = field(default_factory=list, repr=False)  # what the relay passed on, as it came
    clients: list[str] = field(default_factory=list)  # public keys that connected
    answers: int = 1 << 20  # until it falls silent

    @property
    def uri(self) -> str:
        return f"bunker://{self.key.pubkey.hex()}?relay={self.relay}&secret={TOKEN}"

    @property
    def signed_kinds(self) -> list[int]:
        return [orjson.loads(each["params"][0])["kind"] for each in self.asked if each["method"] == "sign_event"]

    async def run(self, started: Callable[[], None]) -> None:
        async with connect(self.relay) as socket:
            await socket.send(orjson.dumps(["REQ", "b", {"kinds": [24133], "#p": [self.key.pubkey.hex()]}]).decode())
            async with asyncio.TaskGroup() as group:
                async for frame in socket:
                    self.frames.append(frame if isinstance(frame, bytes) else frame.encode())
                    message = orjson.loads(frame)
                    if message[0] == "EOSE":
                        started()
                    elif message[0] == "EVENT":
                        group.create_task(self._answer(socket, message[2]))

    async def _answer(self, socket: ClientConnection, event: dict[str, Any]) -> None:
        client = bytes.fromhex(event["pubkey"])
        request = orjson.loads(self.key.decrypt(client, event["content"]))
        self.asked.append(request)
        async for reply in self._replies(request, client):
            if self.answers:
                self.answers -= 1
                await self.send(socket, client, {"id": request["id"], **reply})

    async def send(self, socket: ClientConnection, client: bytes, reply: Reply, key: SecretKey | None = None) -> None:
        """Send a reply to a client, signed by the signer's key or by another."""
        key = key or self.key
        content, tags = key.encrypt(client, orjson.dumps(reply).decode()), (("p", client.hex()),)
        event = EventDraft(kind=24133, created_at=int(time.time()), tags=tags, content=content).sign(key)
        await socket.send(orjson.dumps(["EVENT", event.to_dict()]).decode())

    async def _replies(self, request: dict[str, Any], client: bytes) -> AsyncIterator[Reply]:
        match request["method"]:
            case "connect" if request["params"][1] != TOKEN:
                yield {"error": "wrong secret"}
            case "connect":
                self.clients.append(client.hex())
                yield {"result": "ack"}
            case "get_public_key":
                yield {"result": self.user.pubkey.hex()}
            case "sign_event":
                async for reply in self.sign(self, orjson.loads(request["params"][0])):
                    yield reply


@contextlib.asynccontextmanager
async def running(bunker: Bunker) -> AsyncIterator[Bunker]:
    """Run a signer on the event loop."""
    started = asyncio.Event()
    task = asyncio.create_task(bunker.run(started.set))
    try:
        await started.wait()
        yield bunker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def bunker_on_thread(port: int) -> Iterator[Bunker]:
    """Run a signer and its relay on their own thread, for commands that run in the test's thread."""
    ready: queue.SimpleQueue[tuple[Bunker, asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def run() -> None:
        stop = asyncio.Event()
        async with LocalRelay(port=port) as relay, running(Bunker(relay.url)) as bunker:
            ready.put((bunker, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    bunker, loop, stop = ready.get()
    try:
        yield bunker
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@contextlib.asynccontextmanager
async def lossy_relay(url: str, *, every: int) -> AsyncIterator[tuple[str, list[str]]]:
    """Pass frames on to a relay and back, except one event in so many; yield the address and the lost frames."""
    events, lost = 0, list[str]()

    def is_lost(frame: str | bytes) -> bool:
        nonlocal events
        text = frame if isinstance(frame, str) else frame.decode()
        if not text.startswith('["EVENT"'):
            return False
        events += 1
        if events % every:
            return False
        lost.append(text)
        return True

    async def pump(source: ClientConnection | ServerConnection, target: ClientConnection | ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in source:
                if not is_lost(frame):
                    await target.send(frame)

    async def handle(client: ServerConnection) -> None:
        async with connect(url) as upstream:
            await asyncio.wait(
                [asyncio.create_task(pump(client, upstream)), asyncio.create_task(pump(upstream, client))],
                return_when=asyncio.FIRST_COMPLETED,
            )

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", lost
