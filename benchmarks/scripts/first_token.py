"""Time to first token for a prompt of some length; medians, preset l with a vocabulary of 2,000.

`first_token.py LENGTH` computes in this process and prints {"prefill_ms", "step_ms"}. `first_token.py LENGTH ADDRESS
[KEY]` requests a stream from a server and prints {"first_ms"}.
"""

import asyncio
import json
import statistics
import sys
import time

import aiohttp
import numpy as np

from randygpt.model.config import ModelConfig
from randygpt.model.decoder import Decoder, KVCache
from randygpt.model.layout import tensor_shapes
from randygpt.model.sampling import Sampling, sample

ROUNDS, STEPS = 25, 10
SAMPLING = Sampling(temperature=0.8, top_p=0.9)


def compute(length: int) -> dict[str, float]:
    """Measure the prefill of a prompt, and a decode step."""
    config = ModelConfig.from_preset("l", vocab_size=2000)
    count = sum(rows * columns for rows, columns in tensor_shapes(config).values())
    decoder = Decoder.from_flat(
        config, np.random.default_rng(0).standard_normal(count, dtype=np.float32) * np.float32(0.02)
    )
    prefills: list[float] = []
    steps: list[float] = []
    for _ in range(ROUNDS):
        cache, ids = KVCache(config), [*range(2, 2 + length)]
        for times in (prefills, *[steps] * STEPS):
            start = time.perf_counter()
            ids = [sample(decoder.next_logits(ids, cache), SAMPLING, 0.5)]
            times.append(time.perf_counter() - start)
    return {"prefill_ms": statistics.median(prefills) * 1e3, "step_ms": statistics.median(steps) * 1e3}


async def ask(length: int, address: str, key: str = "") -> dict[str, float]:
    """Measure the time to first token of a server."""
    prompt = "".join(chr(35 + index) for index in range(length))  # one token each
    request = {"prompt": prompt, "max_tokens": STEPS, "temperature": 0.8, "top_p": 0.9, "stream": True}
    times = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            async with session.post(f"{address}/v1/completions", json=request | {"ignore_eos": True}) as response:
                await response.content.readline()
                times.append(time.perf_counter() - start)
                await response.read()
    return {"first_ms": statistics.median(times[1:]) * 1e3}


if __name__ == "__main__":
    length, *address = sys.argv[1:]
    print(json.dumps(asyncio.run(ask(int(length), *address)) if address else compute(int(length))))
