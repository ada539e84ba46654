"""A key that requests all it can: `flood.py ADDRESS KEY`. Runs until its standard input ends. Without torch."""

import asyncio
import sys

import aiohttp

REQUESTS, CHOICES, TOKENS = 8, 16, 1024
REQUEST = {"prompt": "0123456789" * 6, "n": CHOICES, "max_tokens": TOKENS, "ignore_eos": True}


async def ask(session: aiohttp.ClientSession, address: str) -> None:
    """Send requests one after the other; those beyond the key's limits are refused."""
    while True:
        async with session.post(f"{address}/v1/completions", json=REQUEST) as response:
            await response.read()
            if not response.ok:
                await asyncio.sleep(0.05)


async def main(address: str, key: str) -> None:
    """Flood the server until the input ends."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        tasks = [asyncio.create_task(ask(session, address)) for _ in range(REQUESTS)]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
