"""Clients that read greedy streams until stdin ends: `streams.py ADDRESS CLIENTS FILE`.

Writes one JSON line per reply to FILE, {"release", "prompt", "text"}. Prints {"failed", "answers", "p50_ms", "p99_ms"}:
failed requests, complete replies, and percentiles of the gap between two tokens. Without torch.
"""

import asyncio
import itertools
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

TOKENS = 200
PROMPTS = ("0123456789", "ABCDEFGHIJKLMNOP" * 4, "abc" * 30, "Z")
REQUEST = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}


@dataclass(slots=True, kw_only=True)
class Results:
    """Results of all clients."""

    answers: list[str] = field(default_factory=list)
    failed: int = 0
    gaps: list[float] = field(default_factory=list)


async def stream(session: aiohttp.ClientSession, address: str, prompt: str, results: Results) -> bool:
    """Read one stream; return whether it was complete and valid."""
    text, releases, last, finish = "", set(), 0.0, None
    async with session.post(f"{address}/v1/completions", json=REQUEST | {"prompt": prompt}) as response:
        if response.status != 200:  # noqa: PLR2004 (HTTP)
            return False
        release = response.headers["X-Release"]
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            if last:
                results.gaps.append(now - last)
            last, part = now, json.loads(line[6:])
            if "choices" not in part:
                return False
            releases.add(part["system_fingerprint"])
            text, finish = text + part["choices"][0]["text"], part["choices"][0]["finish_reason"]
    results.answers.append(json.dumps({"release": release, "prompt": prompt, "text": text}))
    return finish == "length" and releases == {f"fp_{release[:16]}"}


async def main(address: str, clients: str, path: str) -> None:
    """Run the clients and print their figures."""
    results, asking = Results(), True

    async def keep_asking(number: int) -> None:
        for turn in itertools.count(number):
            if not asking:
                return
            try:
                results.failed += not await stream(session, address, PROMPTS[turn % len(PROMPTS)], results)
            except aiohttp.ClientError:
                results.failed += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [asyncio.create_task(keep_asking(number)) for number in range(int(clients))]
        await asyncio.to_thread(sys.stdin.read)
        asking = False
        await asyncio.gather(*tasks)
    await asyncio.to_thread(Path(path).write_text, "\n".join(results.answers), encoding="utf-8")
    gaps = np.percentile(results.gaps, [50, 99]) * 1e3
    figures = {"failed": results.failed, "answers": len(results.answers), "p50_ms": gaps[0], "p99_ms": gaps[1]}
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
