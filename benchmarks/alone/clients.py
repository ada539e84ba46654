"""Asks a server for completions, all at the same time: `clients.py ADDRESS CLIENTS TOKENS stream|whole`.

Prints {"tokens_per_s", "ended"}: of all clients together, and how many had all of their tokens; of streams also
{"first_s"}, until the median client's first token. No torch.
"""

import asyncio
import json
import statistics
import sys
import time

import aiohttp

ASKED = {"prompt": "0123456789" * 2, "ignore_eos": True, "temperature": 0.8, "top_p": 0.9}


async def ask(session: aiohttp.ClientSession, address: str, tokens: int) -> int:
    """The tokens of one client that waits for the end."""
    async with session.post(f"{address}/v1/completions", json=ASKED | {"max_tokens": tokens}) as response:
        usage = (await response.json())["usage"]
    return int(usage["completion_tokens"])


async def stream(session: aiohttp.ClientSession, address: str, tokens: int) -> tuple[float, int]:
    """(Seconds until the first token, tokens) of one client."""
    asked = ASKED | {"max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
    start, first, count = time.perf_counter(), 0.0, 0
    async with session.post(f"{address}/v1/completions", json=asked) as response:
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            first = first or time.perf_counter() - start
            if usage := json.loads(line[6:]).get("usage"):
                count = usage["completion_tokens"]
    return first, count


async def main(address: str, clients: str, tokens: str, how: str) -> None:
    """Measure, and print."""
    figures = {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await stream(session, address, 8)
        start = time.perf_counter()
        if how == "stream":
            done = await asyncio.gather(*(stream(session, address, int(tokens)) for _ in range(int(clients))))
            figures["first_s"] = statistics.median(first for first, _ in done)
            counts = [count for _, count in done]
        else:
            counts = await asyncio.gather(*(ask(session, address, int(tokens)) for _ in range(int(clients))))
        seconds = time.perf_counter() - start
    figures |= {"tokens_per_s": sum(counts) / seconds, "ended": counts.count(int(tokens))}
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
