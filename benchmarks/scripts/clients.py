"""Concurrent clients that request completions: `clients.py ADDRESS CLIENTS TOKENS stream|whole`.

Prints {"tokens_per_s", "ended"}: throughput of all clients together, and the number of clients that got all tokens; for
streams also {"first_s"}, the median time to first token. Without torch.
"""

import asyncio
import json
import statistics
import sys
import time

import aiohttp

REQUEST = {"prompt": "0123456789" * 2, "ignore_eos": True, "temperature": 0.8, "top_p": 0.9}


async def ask(session: aiohttp.ClientSession, address: str, tokens: int) -> int:
    """Send one request without streaming; return its number of tokens."""
    async with session.post(f"{address}/v1/completions", json=REQUEST | {"max_tokens": tokens}) as response:
        usage = (await response.json())["usage"]
    return int(usage["completion_tokens"])


async def stream(session: aiohttp.ClientSession, address: str, tokens: int) -> tuple[float, int]:
    """Stream one reply; return the seconds to the first token, and the number of tokens."""
    request = REQUEST | {"max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
    start, first, count = time.perf_counter(), 0.0, 0
    async with session.post(f"{address}/v1/completions", json=request) as response:
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            first = first or time.perf_counter() - start
            if usage := json.loads(line[6:]).get("usage"):
                count = usage["completion_tokens"]
    return first, count


async def main(address: str, clients: str, tokens: str, mode: str) -> None:
    """Measure and print the figures."""
    figures = {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await stream(session, address, 8)
        start = time.perf_counter()
        if mode == "stream":
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
