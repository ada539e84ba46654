"""How fast it is, as ratios taken in one run: `make bench`. Writes JSON with machine and commit.

`RANDYGPT_BASELINE` names a plain PyTorch program that prints {"ms_per_iter"} for `train` and {"tokens_per_s"} for
`decode`; without it those two rows are left out.
"""

import asyncio
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import coincurve
import pybase64
import torch

from distribution.announcement import chunk_draft
from distribution.chunking import CHUNK_SIZE
from randygpt.config import ModelConfig
from randygpt.generate import Sampling, generate
from randygpt.model import GPT
from randygpt.options import TrainOptions
from randygpt.text import Text
from randygpt.train import Trainer
from relay_client.embedded import EmbeddedRelay
from relay_client.event import Event, HashedEvent
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.pool import Pool

RESULTS = Path(__file__).parent / "results"
ROUNDS = 3  # A B A B A B
CHUNKS = 300


def main() -> None:
    """Measure, print a line a row, and write the JSON."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        baseline = os.environ.get("RANDYGPT_BASELINE")
        if baseline:
            rows["training iteration, preset s, batch 64"] = compare(
                lambda: baseline_figure(baseline, "train", "s", "ms_per_iter", "--vocab", "98"),
                lambda: training_ms(Path(folder)),
            )
            rows["decoding, preset l, vocabulary 2000, 200 tokens"] = compare(
                lambda: 1e3 / baseline_figure(baseline, "decode", "l", "tokens_per_s", "--vocab", "2000"),
                decoding_ms,
            )
        rows["sign and pack a chunk, against bare sha256, base64 and Schnorr"] = compare(bare_signing_ms, signing_ms)
        rows["verify a chunk event, against bare sha256 and Schnorr"] = compare(bare_verifying_ms, verifying_ms)
        rows["fetch and verify, against reading and discarding"] = asyncio.run(fetching())
    report = {
        "commit": git("rev-parse", "--short", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "torch": torch.__version__,
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    target = RESULTS / f"{report['date']}-{report['commit']}.json"
    target.write_text(json.dumps(report, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{row['ratio']:7.2f} x  {name}  ({row['a_ms']:.3g} ms against {row['b_ms']:.3g} ms)")
    print(target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target)


def compare(a: Callable[[], float], b: Callable[[], float]) -> dict[str, float]:
    """Medians of A B A B A B, in ms, and how many times faster B is, pair by pair."""
    pairs = [(a(), b()) for _ in range(ROUNDS)]
    return {
        "ratio": statistics.median(first / second for first, second in pairs),
        "a_ms": statistics.median(first for first, _ in pairs),
        "b_ms": statistics.median(second for _, second in pairs),
    }


def baseline_figure(program: str, what: str, preset: str, key: str, *more: str) -> float:
    """One figure that the plain program prints."""
    command = [sys.executable, program, what, "--preset", preset, *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout)[key])


def training_ms(folder: Path) -> float:
    """Median ms of an iteration at the default settings, dropout on."""
    options = TrainOptions(iterations=6, batch_size=64, prefix=folder / "bench")
    trainer = Trainer.start(options, Text.find(None), lambda size: ModelConfig.from_preset("s", vocab_size=size))
    times: list[float] = []
    trainer.run(lambda step: times.append(step.ms) if step.val_loss is None else None, lambda: False)
    return statistics.median(times[1:])


def decoding_ms() -> float:
    """Ms a token, one sequence."""
    model = GPT.initialise(ModelConfig.from_preset("l", vocab_size=2000), seed=0).eval()
    start = time.perf_counter()
    count = sum(1 for _ in generate(model, [5] * 16, Sampling(max_tokens=200, temperature=0.8, top_p=0.9, seed=1)))
    return (time.perf_counter() - start) * 1e3 / count


KEY = SecretKey.generate()
DATA = [os.urandom(CHUNK_SIZE) for _ in range(CHUNKS)]
EVENTS = [chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=1).sign(KEY) for data in DATA]


def each_ms(work: Callable[[int], object]) -> float:
    """Ms for one of CHUNKS pieces of work."""
    start = time.perf_counter()
    for index in range(CHUNKS):
        work(index)
    return (time.perf_counter() - start) * 1e3 / CHUNKS


def bare_signing_ms() -> float:
    """What signing a chunk costs if nothing else is done."""
    bare = coincurve.PrivateKey()

    def work(index: int) -> bytes:
        text = pybase64.b64encode(DATA[index])
        hashlib.sha256(DATA[index])
        return bare.sign_schnorr(hashlib.sha256(text).digest())

    return each_ms(work)


def signing_ms() -> float:
    """From a chunk's bytes to the event's JSON."""

    def work(index: int) -> bytes:
        data = DATA[index]
        return chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=2).sign(KEY).to_json()

    return each_ms(work)


def bare_verifying_ms() -> float:
    """What verifying an event costs if nothing else is done."""
    public = coincurve.PublicKeyXOnly(KEY.pubkey)

    def work(index: int) -> bool:
        hashlib.sha256(EVENTS[index].content.encode())
        return public.verify(EVENTS[index].sig, EVENTS[index].id)

    return each_ms(work)


def verifying_ms() -> float:
    """From decoded JSON to an `Event`."""
    raw_events = [event.to_dict() for event in EVENTS]
    return each_ms(lambda index: Event.parse(raw_events[index]))


async def fetching() -> dict[str, float]:
    """Reading events from the embedded relay: verified by id, against dropped as they come."""
    async with EmbeddedRelay(port=7797) as relay, Pool([relay.url]) as pool:
        await pool.publish((event, [relay.url]) for event in EVENTS)
        ids = [event.id for event in EVENTS]

        async def read(*, verified: bool) -> float:
            start = time.perf_counter()
            if verified:
                await pool.collect(ids, lambda _url, raw_event: bool(HashedEvent.parse(raw_event)))
            else:
                for first in range(0, CHUNKS, 50):
                    batch = tuple(ids[first : first + 50])
                    await pool.query(Filter(ids=batch, limit=len(batch)))
            return (time.perf_counter() - start) * 1e3 / CHUNKS

        pairs = [(await read(verified=False), await read(verified=True)) for _ in range(ROUNDS)]
    return {
        "ratio": statistics.median(first / second for first, second in pairs),
        "a_ms": statistics.median(first for first, _ in pairs),
        "b_ms": statistics.median(second for _, second in pairs),
    }


def git(*words: str) -> str:
    """What git says, empty outside a checkout."""
    done = subprocess.run(["git", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
