"""A line of limited speed: `token_bucket.py ORIGIN MB_PER_S` passes TCP connections on to the server at ORIGIN.

All connections together get that many bytes from the server (a token bucket); what they send is not limited. Prints the
origin of the line, and runs until it is terminated.
"""

import asyncio
import contextlib
import sys
import time
from urllib.parse import urlsplit

BLOCK = 1 << 16
BURST_S = 0.02  # that an idle line saves up, so that late timers cost no speed


class Bucket:
    """Token bucket of a line.

    Args:
        rate: Bytes per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        """Wait until the line has carried that many bytes."""
        now = time.perf_counter()
        self._free_at = max(self._free_at, now - BURST_S) + size / self._rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: Bucket | None = None) -> None:
    """Pass on bytes until the end."""
    with contextlib.suppress(OSError):
        while block := await reader.read(BLOCK):
            if bucket:
                await bucket.take(len(block))
            writer.write(block)
            await writer.drain()


async def main(origin: str, mb_per_s: str) -> None:
    """Run the line."""
    bucket, port = Bucket(float(mb_per_s) * 1e6), urlsplit(origin).port

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection("127.0.0.1", port)
        sending = asyncio.create_task(pump(reader, upstream[1]))
        await pump(upstream[0], writer, bucket)
        sending.cancel()
        for end in (writer, upstream[1]):
            end.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
