"""A small relay that misbehaves on purpose: real websockets, scripted answers.

It stores what it is sent and gives it back by id, author, kind, time, tags and `search`, without checking anything, and
passes every event through `deliver` on its way out: return another event, or None to withhold it.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

RawEvent = dict[str, Any]


@dataclass(slots=True)
class ScriptedRelay:
    """State of one scripted relay; tests read and change it while it runs."""

    url: str = ""
    events: dict[str, RawEvent] = field(default_factory=dict)  # by id
    deliver: Callable[[RawEvent], RawEvent | None] = lambda event: event
    accept: Callable[[RawEvent], tuple[bool, str]] = lambda _event: (True, "")  # (OK, reason)
    refuse: Callable[[dict[str, Any]], str] = lambda _wanted: ""  # reason of a CLOSED; empty: answered
    most: int = 1 << 20  # maximum number of events in one answer
    ignores: Callable[[dict[str, Any]], bool] = lambda _: False  # gets filters; True: this request is never answered
    before_answer: Callable[[dict[str, Any]], Awaitable[None]] | None = None  # may delay an answer
    stalls: Callable[[dict[str, Any]], bool] = lambda _: False  # gets filters and events; answers nothing from there on
    stall_frame: Callable[[str], object] | None = None  # what it repeats then, given the subscription; None: nothing
    count: Callable[[int], object] | None = None  # gets a number and returns the answer to COUNT; None: refuses
    keep: bool = True  # False: answers OK and forgets
    silent: bool = False  # True: never answers anything
    junk: list[RawEvent] = field(default_factory=list)  # sent before every answer, requested or not
    members: list[str] = field(default_factory=list)  # the only public keys that may publish (NIP-42); empty: all
    description: RawEvent = field(default_factory=dict)  # relay information document (NIP-11)
    clock_offset_s: int = 0  # of its HTTP Date
    received: list[str] = field(default_factory=list)  # ids in the order they came
    requests: list[dict[str, Any]] = field(default_factory=list)  # filters asked
    counted: list[dict[str, Any]] = field(default_factory=list)  # filters of COUNT
    identities: list[str] = field(default_factory=list)  # public keys of authenticated clients (NIP-42)
    connections: int = 0  # so far

    async def handle(self, socket: ServerConnection) -> None:
        self.connections += 1
        known = not self.members
        if not known:
            await socket.send('["AUTH","who is there?"]')
        async for frame in socket:
            if self.silent:
                continue
            message = orjson.loads(frame)
            if message[0] == "AUTH":
                self.identities.append(message[1]["pubkey"])
                known = message[1]["pubkey"] in self.members
                await socket.send(orjson.dumps(["OK", message[1]["id"], known, ""]).decode())
            elif message[0] == "EVENT" and not known:
                await socket.send(orjson.dumps(["OK", message[1]["id"], False, "auth-required: members only"]).decode())
            elif message[0] == "EVENT":
                await self._take(socket, message[1])
            elif message[0] == "COUNT":
                await self._count(socket, message[1], message[2])
            elif message[0] == "REQ":
                await self._give(socket, message[1], message[2])

    def describe(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain HTTP request (NIP-11); return None for a websocket's."""
        if "Upgrade" in request.headers:
            return None
        response = connection.respond(HTTPStatus.OK, orjson.dumps(self.description).decode())
        del response.headers["Date"]
        response.headers["Date"] = formatdate(time.time() + self.clock_offset_s, usegmt=True)
        return response

    async def _take(self, socket: ServerConnection, event: RawEvent) -> None:
        if self.stalls(event):
            await self._stall(socket, "")
        self.received.append(event["id"])
        accepted, reason = self.accept(event)
        if accepted and event["id"] in self.events:
            reason = "duplicate: have it"
        if accepted and self.keep:
            self.events[event["id"]] = event
        await socket.send(orjson.dumps(["OK", event["id"], accepted, reason]).decode())

    async def _give(self, socket: ServerConnection, subscription: str, wanted: dict[str, Any]) -> None:
        self.requests.append(wanted)
        if self.ignores(wanted):
            return
        if self.stalls(wanted):
            await self._stall(socket, subscription)
        if self.before_answer:
            await self.before_answer(wanted)
        if reason := self.refuse(wanted):
            await socket.send(orjson.dumps(["CLOSED", subscription, reason]).decode())
            return
        found = [event for event in self.events.values() if _matches(event, wanted)]
        found.sort(key=lambda event: -event["created_at"])
        for event in self.junk:
            await socket.send(orjson.dumps(["EVENT", subscription, event]).decode())
        for event in found[: min(wanted["limit"], self.most)]:
            delivered = self.deliver(event)
            if delivered is not None:
                await socket.send(orjson.dumps(["EVENT", subscription, delivered]).decode())
        await socket.send(orjson.dumps(["EOSE", subscription]).decode())

    async def _count(self, socket: ServerConnection, subscription: str, wanted: dict[str, Any]) -> None:
        self.counted.append(wanted)
        if self.count is None:
            await socket.send(orjson.dumps(["CLOSED", subscription, "unsupported: no counts"]).decode())
            return
        found = [event for event in self.events.values() if _matches(event, wanted)]
        if answer := self.count(len(found)):
            await socket.send(orjson.dumps(["COUNT", subscription, answer]).decode())

    async def _stall(self, socket: ServerConnection, subscription: str) -> None:
        if self.stall_frame:
            while True:
                await socket.send(orjson.dumps(self.stall_frame(subscription)).decode())
                await asyncio.sleep(0.02)
        await socket.wait_closed()


def stall(relay: ScriptedRelay, kind: str, stalls: Callable[[RawEvent], bool]) -> None:
    """Make a relay never complete some answers: it stays `mute`, or sends frames of a kind (see `frame_of`)."""
    relay.stalls, relay.stall_frame = (
        stalls,
        None if kind == "mute" else frame_of(kind, next(iter(relay.events.values()))),
    )


def frame_of(kind: str, event: RawEvent) -> Callable[[str], object]:
    """Return a function that makes the frame with which a hostile relay answers a request."""
    frames: dict[str, Callable[[str], object]] = {
        "AUTH": lambda _: ["AUTH", "who?"],
        "NOTICE": lambda _: ["NOTICE", "one moment"],
        "EVENT": lambda subscription: ["EVENT", subscription, event],
    }
    return frames[kind]


def _matches(event: RawEvent, wanted: dict[str, Any]) -> bool:
    return (
        event["id"] in wanted.get("ids", [event["id"]])
        and event["pubkey"] in wanted.get("authors", [event["pubkey"]])
        and event["kind"] in wanted.get("kinds", [event["kind"]])
        and wanted.get("since", 0) <= event["created_at"] <= wanted.get("until", event["created_at"])
        and wanted.get("search", "") in event["content"]
        and all(
            any(tag[0] == name[1:] and tag[1] in values for tag in event["tags"])
            for name, values in wanted.items()
            if name.startswith("#")
        )
    )


@contextlib.asynccontextmanager
async def scripted_relay() -> AsyncIterator[ScriptedRelay]:
    """Run a scripted relay on a free port of the loopback address."""
    relay = ScriptedRelay()
    async with serve(
        relay.handle, "127.0.0.1", 0, compression=None, max_size=1 << 20, process_request=relay.describe
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        relay.url = f"ws://127.0.0.1:{port}"
        yield relay
        await asyncio.sleep(0)


@contextlib.contextmanager
def relay_on_thread() -> Iterator[ScriptedRelay]:
    """Run a scripted relay on its own thread, for commands that run in the test's thread."""
    started: queue.SimpleQueue[tuple[ScriptedRelay, asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def run() -> None:
        stop = asyncio.Event()
        async with scripted_relay() as relay:
            started.put((relay, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    relay, loop, stop = started.get()
    try:
        yield relay
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
