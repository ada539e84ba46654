"""A small Blossom server that misbehaves on purpose: real sockets, scripted answers.

It stores what it is sent and gives it back, in ranges too, without asking for a token. `script` sees each request
first, and may answer it in any way; None leaves it to the honest server.
"""

import asyncio
import contextlib
import hashlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import orjson

from support.tcp_server import tcp_server


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def range(self) -> tuple[int, int] | None:
        """First and last byte of a range request."""
        unit, _, rest = self.headers.get("range", "").partition("=")
        first, _, last = rest.partition("-")
        return (int(first), int(last)) if unit == "bytes" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response. Its length is that of the body, unless the headers say otherwise; an empty one leaves it out."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    endless: bool = False  # zeros follow the body for ever
    trickle: bool = False  # the body comes byte by byte
    hang: bool = False  # after the body, keep the connection open and send nothing


@dataclass(slots=True)
class BlossomServer:
    """State of one server; tests read and change it while it runs."""

    url: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)  # by SHA-256 in hex
    asked: list[Asked] = field(default_factory=list)
    script: Callable[[Asked], Answer | None] = lambda _: None
    served: int = 0  # bytes of bodies
    largest: int = 0  # number of uploads at the same time
    _uploading: int = 0

    def add(self, data: bytes) -> bytes:
        """Store a blob and return its hash."""
        digest = hashlib.sha256(data).digest()
        self.blobs[digest.hex()] = data
        return digest

    def count(self, method: str) -> int:
        return sum(asked.method == method for asked in self.asked)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._handle(reader, writer)
        finally:
            writer.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if name}
        uploads = method == "PUT"
        self._uploading += uploads
        self.largest = max(self.largest, self._uploading)
        try:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        finally:
            self._uploading -= uploads
        asked = Asked(method=method, path=path, headers=headers, body=body)
        self.asked.append(asked)
        await self._send(writer, self.script(asked) or self.honest(asked), asked.method)

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer, method: str) -> None:
        headers = {"Content-Length": str(len(answer.body)), "Connection": "close", **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{name}: {text}" for name, text in headers.items() if text)]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if method == "HEAD":
            await writer.drain()
            return
        if answer.trickle:
            for byte in answer.body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
            return
        writer.write(answer.body)
        self.served += len(answer.body)
        await writer.drain()
        while answer.endless:
            writer.write(bytes(1 << 16))
            self.served += 1 << 16
            await writer.drain()
        if answer.hang:
            await asyncio.Event().wait()

    def honest(self, asked: Asked) -> Answer:
        """Answer as a server should."""
        if asked.path in {"/upload", "/mirror"}:
            return Answer() if asked.method == "HEAD" else self._store(asked)
        name = asked.path[1:65]
        if name not in self.blobs:
            return Answer(status=404)
        if asked.method == "DELETE":
            del self.blobs[name]
            return Answer(status=204)
        return self._give(self.blobs[name], asked)

    @staticmethod
    def _give(data: bytes, asked: Asked) -> Answer:
        if asked.range is None or asked.method == "HEAD":
            return Answer(body=data)
        first, last = asked.range
        if last >= len(data):
            return Answer(status=416)
        span = f"bytes {first}-{last}/{len(data)}"
        return Answer(status=206, headers={"Content-Range": span}, body=data[first : last + 1])

    def _store(self, asked: Asked) -> Answer:
        data = asked.body
        if asked.path == "/mirror":
            data = self.blobs[orjson.loads(asked.body)["url"][-64:]]
        digest = self.add(data)
        return Answer(status=201, body=orjson.dumps({"url": "", "sha256": digest.hex(), "size": len(data)}))


@contextlib.asynccontextmanager
async def blossom_server() -> AsyncIterator[BlossomServer]:
    """Run a scripted server on a free port of the loopback address."""
    running = BlossomServer()
    async with tcp_server(running.handle) as port:
        running.url = f"http://127.0.0.1:{port}"
        yield running


@contextlib.contextmanager
def blossom_on_thread() -> Iterator[BlossomServer]:
    """Run a scripted server on its own thread, for commands that run in the test's thread."""
    started: queue.SimpleQueue[tuple[BlossomServer, asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def run() -> None:
        stop = asyncio.Event()
        async with blossom_server() as server:
            started.put((server, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    server, loop, stop = started.get()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
