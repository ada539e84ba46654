"""A TCP proxy in front of a real relay or Blossom server, with faults of real networks towards the client."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from support.tcp_server import tcp_server


@dataclass(slots=True)
class Proxy:
    """State of one proxy; tests read and change it while it runs. Bytes are counted over all connections."""

    url: str = ""
    passed: int = 0  # bytes given to clients
    connections: int = 0
    cuts: int = 0  # connections that ended too early
    cut_after: int | None = None  # bytes that one connection may give; then it ends
    reset: bool = False  # ... by a reset (RST), not in good order
    dies: bool = False  # ... and there will be no other
    delay_s: float = 0.0  # before each block
    trickle: bool = False  # one byte a second
    flip_at: int | None = None  # the byte in which one bit is turned over

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        if self.dies and self.connections:
            writer.close()
            return
        self.connections += 1
        upstream = await asyncio.open_connection("127.0.0.1", port)
        forward = asyncio.create_task(_pump(reader, upstream[1]))
        try:
            with contextlib.suppress(OSError):
                await self._back(upstream[0], writer)
        finally:
            forward.cancel()
            for end in (writer, upstream[1]):
                end.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        given = 0
        while block := await reader.read(1 if self.trickle else 1 << 16):
            if self.trickle or self.delay_s:
                await asyncio.sleep(1.0 if self.trickle else self.delay_s)
            left = len(block) if self.cut_after is None else self.cut_after - given
            writer.write(self._flipped(block)[:left])
            self.passed += min(left, len(block))
            given += len(block)
            await writer.drain()
            if left < len(block):
                self.cuts += 1
                if self.reset:
                    writer.transport.abort()
                return

    def _flipped(self, block: bytes) -> bytes:
        if self.flip_at is None or not self.passed <= self.flip_at < self.passed + len(block):
            return block
        changed = bytearray(block)
        changed[self.flip_at - self.passed] ^= 1
        return bytes(changed)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()


@contextlib.asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    """Run a proxy to the relay or server at `url`, on a free port of the loopback address."""
    proxy, target = Proxy(), urlsplit(url)
    assert target.port
    async with tcp_server(functools.partial(proxy.handle, port=target.port)) as port:
        proxy.url = f"{target.scheme}://127.0.0.1:{port}"
        yield proxy
