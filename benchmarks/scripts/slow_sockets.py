"""Slow sockets and busy clients at the same time: `slow_sockets.py ADDRESS SLOW BUSY`.

A quarter of the slow sockets send nothing, a quarter stop within the headers, the others send one byte per second of
the headers or the body. A busy client sends the next request as soon as it has a reply, until the last slow socket is
closed. Prints {"gone_s", "answered", "busy", "other"}: the time until then, and the number of replies with status 200,
with 503, and of anything else. Without torch.
"""

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections import Counter

import aiohttp

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
BEGINNINGS = (b"", HEAD[:40], HEAD + b"X: ", HEAD + b'\r\n{"prompt": "')
DRIPS = (b"", b"", b"x", b"x")
REQUEST = {"prompt": "0123456789", "max_tokens": 20, "ignore_eos": True}


async def slow(host: str, port: int, kind: int) -> None:
    """Run one slow socket until the server closes it."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(BEGINNINGS[kind])

    async def drip() -> None:
        while True:
            await asyncio.sleep(1)
            writer.write(DRIPS[kind])

    task = asyncio.create_task(drip())
    with contextlib.suppress(ConnectionError):
        await reader.read()
    task.cancel()
    writer.close()


async def main(address: str, slow_count: str, busy_count: str) -> None:
    """Measure and print the figures."""
    host, port = address.removeprefix("http://").split(":")
    counts: Counter[object] = Counter()
    start, is_over = time.perf_counter(), False

    async def ask() -> None:
        while not is_over:
            try:
                async with session.post(f"{address}/v1/completions", json=REQUEST) as response:
                    await response.read()
                    counts[response.status] += 1
            except aiohttp.ClientError as error:
                counts[type(error)] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        kinds = itertools.islice(itertools.cycle(range(len(BEGINNINGS))), int(slow_count))
        sockets = [asyncio.create_task(slow(host, int(port), kind)) for kind in kinds]
        clients = [asyncio.create_task(ask()) for _ in range(int(busy_count))]
        await asyncio.gather(*sockets)
        gone_s = time.perf_counter() - start
        is_over = True
        await asyncio.gather(*clients)
    other = counts.total() - counts[200] - counts[503]
    print(json.dumps({"gone_s": gone_s, "answered": counts[200], "busy": counts[503], "other": other}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
