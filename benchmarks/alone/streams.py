"""Keeps some clients reading streams, greedily, until its stdin ends: `streams.py ADDRESS CLIENTS FILE`.

Writes a JSON line to FILE for each answer, {"release", "prompt", "text"}; prints {"failed", "answers", "p50_ms",
"p99_ms"}: requests that did not end as they should, and the gaps between two tokens of a text. No torch.
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
ASKED = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}


@dataclass(slots=True, kw_only=True)
class Seen:
    """What all clients saw."""

    answers: list[str] = field(default_factory=list)
    failed: int = 0
    gaps: list[float] = field(default_factory=list)


async def stream(session: aiohttp.ClientSession, address: str, prompt: str, seen: Seen) -> bool:
    """Whether one text came as it should."""
    text, releases, last, finish = "", set(), 0.0, None
    async with session.post(f"{address}/v1/completions", json=ASKED | {"prompt": prompt}) as response:
        if response.status != 200:  # noqa: PLR2004 (HTTP)
            return False
        release = response.headers["X-Release"]
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            if last:
                seen.gaps.append(now - last)
            last, part = now, json.loads(line[6:])
            if "choices" not in part:
                return False
            releases.add(part["system_fingerprint"])
            text, finish = text + part["choices"][0]["text"], part["choices"][0]["finish_reason"]
    seen.answers.append(json.dumps({"release": release, "prompt": prompt, "text": text}))
    return finish == "length" and releases == {f"fp_{release[:16]}"}


async def main(address: str, clients: str, path: str) -> None:
    """Ask, and print."""
    seen, asking = Seen(), True

    async def keep_asking(number: int) -> None:
        for turn in itertools.count(number):
            if not asking:
                return
            try:
                seen.failed += not await stream(session, address, PROMPTS[turn % len(PROMPTS)], seen)
            except aiohttp.ClientError:
                seen.failed += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [asyncio.create_task(keep_asking(number)) for number in range(int(clients))]
        await asyncio.to_thread(sys.stdin.read)
        asking = False
        await asyncio.gather(*tasks)
    await asyncio.to_thread(Path(path).write_text, "\n".join(seen.answers), encoding="utf-8")
    gaps = np.percentile(seen.gaps, [50, 99]) * 1e3
    figures = {"failed": seen.failed, "answers": len(seen.answers), "p50_ms": gaps[0], "p99_ms": gaps[1]}
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
