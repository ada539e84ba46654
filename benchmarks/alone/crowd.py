"""Slow sockets and eager clients at the same time: `crowd.py ADDRESS SLOW EAGER`.

A quarter of the slow ones say nothing, a quarter stop in their headers, the others send a byte a second of headers and
of a body. Eager clients ask again as soon as they are answered, until the last slow one is gone. Prints {"gone_s",
"answered", "busy", "other"}: when that was, and the eager clients' replies: 200, 503, anything else. No torch.
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
ASKED = {"prompt": "0123456789", "max_tokens": 20, "ignore_eos": True}


async def slow(host: str, port: int, kind: int) -> None:
    """One slow socket, until the server ends it."""
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


async def main(address: str, slow_ones: str, eager_ones: str) -> None:
    """Measure, and print."""
    host, port = address.removeprefix("http://").split(":")
    counts: Counter[object] = Counter()
    start, is_over = time.perf_counter(), False

    async def ask() -> None:
        while not is_over:
            try:
                async with session.post(f"{address}/v1/completions", json=ASKED) as response:
                    await response.read()
                    counts[response.status] += 1
            except aiohttp.ClientError as error:
                counts[type(error)] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        kinds = itertools.islice(itertools.cycle(range(len(BEGINNINGS))), int(slow_ones))
        crawling = [asyncio.create_task(slow(host, int(port), kind)) for kind in kinds]
        asking = [asyncio.create_task(ask()) for _ in range(int(eager_ones))]
        await asyncio.gather(*crawling)
        gone_s = time.perf_counter() - start
        is_over = True
        await asyncio.gather(*asking)
    other = counts.total() - counts[200] - counts[503]
    print(json.dumps({"gone_s": gone_s, "answered": counts[200], "busy": counts[503], "other": other}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
