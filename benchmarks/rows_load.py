"""Rows about a server under load, with a store of releases: swaps, memory, slow and busy clients."""

import contextlib
import functools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import SCRIPTS, Bench, Measured, Raw, Row
from rows_server import CHARACTERS, CONFIG, HEADER, TOKENS, running, weights
from support.release_store import ReleaseStore

from randygpt.model.decoder import Array, Decoder, KVCache
from relay_client.keys import SecretKey
from server.memory import MAX_SLOTS

CLIENTS, SECONDS = 32, 60
SWAPS, MODELS = 20, 4
KEY = "bench"
TIE = 1e-4  # logits this close may swap, depending on the batch
SLOW, BUSY = 200, 256


class Releases:
    """Store of a server, with releases of preset l."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._store = ReleaseStore(home=home, key=SecretKey.generate())
        self.good: dict[str, int] = {}  # release id to the seed of its weights
        self.corrupt: list[str] = []

    def add(self, seed: int) -> str:
        """Add a valid release and return its id."""
        release = self._add(weights(seed))
        self.good[release] = seed
        return release

    def add_corrupt(self) -> None:
        """Add one release of each kind that the server must refuse."""
        values, end = weights(0), len(HEADER.encode()) + 4 * CONFIG.parameter_count
        nan = values.copy()
        nan[-5] = np.nan
        data = HEADER.encode() + values.tobytes()
        vocab = json.dumps({"chars": CHARACTERS.chars[:-1]}).encode()
        self.corrupt = [
            self._add(nan),
            self._add(values * np.float32(1e37)),
            self._add(values, checkpoint=data[: end // 2]),
            self._add(values, vocab=vocab),
            self._add(values, config=b"{}"),
        ]

    def activate(self, release: str) -> None:
        """Make a release current, as `randygpt fetch` does."""
        self._store.store.activate(bytes.fromhex(release))

    def _add(self, values: Array, **changed: bytes) -> str:
        files: dict[str, Any] = {
            "checkpoint": HEADER.encode() + values.tobytes(),
            "vocab": json.dumps(CHARACTERS.to_json()).encode(),
            "config": json.dumps(CONFIG.to_json("char")).encode(),
        }
        return self._store.install(**files | changed).id.hex()


@functools.cache  # shared by two rows
def swapped(bench: Bench) -> tuple[Raw, str]:
    """Measure clients without and with swaps, and the server's memory; return the figures and the faults."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        releases = Releases(Path(folder))
        turns = [releases.add(turn % MODELS) for turn in range(SWAPS + 1)]
        releases.add_corrupt()
        for place, release in enumerate(releases.corrupt):
            turns.insert(4 * place + 3, release)
        answers = [releases.home / name for name in ("still", "moving")]
        with running(home=releases.home) as (pid, address):
            raw = {"idle_mib": resident(pid, "VmRSS")}
            swap(releases, address, turns[:1], seconds=0)
            with streams(address, answers[0]) as still:
                time.sleep(SECONDS)
            with streams(address, answers[1]) as moving:
                swap(releases, address, turns[1:], seconds=SECONDS)
            raw["peak_mib"] = resident(pid, "VmHWM")
            missed = len(releases.corrupt) - failures(address)
        faults = check(releases, answers) | {
            "failed": still["failed"] + moving["failed"],
            "bad releases missed": missed,
        }
    fault = ", ".join(f"{count:.0f} {what}" for what, count in faults.items() if count)
    return raw | {f"still_{name}": value for name, value in still.items()} | moving, fault


def gap_growth(bench: Bench) -> Measured:
    """Measure by how many ms the 99th percentile of the gaps between tokens grows during swaps."""
    raw, fault = swapped(bench)
    return Measured(value=raw["p99_ms"] - raw["still_p99_ms"], raw=raw, fault=fault)


@contextlib.contextmanager
def streams(address: str, answers: Path, clients: int = CLIENTS) -> Iterator[Raw]:
    """Run clients that read streams; the yielded dictionary holds their figures afterwards."""
    command = [sys.executable, str(SCRIPTS / "streams.py"), address, str(clients), str(answers)]
    figures: Raw = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield figures
        finally:
            printed, _ = process.communicate()
    figures |= json.loads(printed)


def swap(releases: Releases, address: str, turns: Sequence[str], *, seconds: float) -> None:
    """Activate the releases one after the other, spread over `seconds`; wait until the server has processed each."""
    start = time.monotonic()
    for turn, release in enumerate(turns):
        before = failures(address)
        releases.activate(release)
        while failures(address) == before if release in releases.corrupt else health(address)["release"] != release:
            time.sleep(0.01)
        time.sleep(max(0.0, start + (turn + 1) * seconds / len(turns) - time.monotonic()))


def check(releases: Releases, answers: Sequence[Path]) -> dict[str, int]:
    """Count replies of a corrupt release, and replies that differ from their release's own greedy text."""
    found = [json.loads(line) for path in answers for line in path.read_text(encoding="utf-8").splitlines()]
    expected = {}
    for seed in range(MODELS):
        decoder = Decoder.from_flat(CONFIG, weights(seed))
        for prompt in {answer["prompt"] for answer in found}:
            expected[seed, prompt] = greedy(decoder, prompt)
    good = [answer for answer in found if answer["release"] in releases.good]
    mixed = sum(
        not answer["text"].startswith(expected[releases.good[answer["release"]], answer["prompt"]]) for answer in good
    )
    return {"answers of a corrupt release": len(found) - len(good), "mixed": mixed}


def greedy(decoder: Decoder, prompt: str) -> str:
    """Return the greedy text of a model, up to the first tie between two tokens."""
    cache, window = KVCache(CONFIG), CHARACTERS.encode(prompt).tolist()
    text, fresh = "", window
    for _ in range(TOKENS):
        logits = decoder.next_logits(fresh, cache)
        second, first = np.sort(logits)[-2:]
        if first - second < TIE:
            break
        fresh = [int(logits.argmax())]
        window = [*window, *fresh]
        text += CHARACTERS.decode(fresh)
        if len(window) > CONFIG.block_size:
            fresh = window = window[-CONFIG.block_size // 2 :]
            cache.lengths[0] = 0
    return text


def memory_above(bench: Bench) -> Measured:
    """Measure peak memory during swaps under load, beyond the process, two models and their caches, in MiB."""
    raw, fault = swapped(bench)
    known = 2 * (4 * CONFIG.parameter_count + MAX_SLOTS * KVCache.slot_bytes(CONFIG)) / (1 << 20)
    return Measured(value=raw["peak_mib"] - raw["idle_mib"] - known, raw=raw | {"models_mib": known}, fault=fault)


def memory_growth(bench: Bench) -> Measured:
    """Measure the growth of a server's memory in 100 swaps, in per cent.

    Compares the medians after swaps 11 to 30 and 111 to 130, each read when a request after the swap was answered.
    """
    seen = []
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        releases = Releases(Path(folder))
        pair = [releases.add(seed) for seed in range(2)]
        with running("--api-key", KEY, home=releases.home) as (pid, address):
            for turn in range(130):
                releases.activate(pair[turn % 2])
                ask(address, "/admin/reload", post=True)
                ask(address, "/v1/completions", {"prompt": "0" * 50, "n": 4, "max_tokens": 8}, post=True)
                seen.append(resident(pid, "VmRSS"))
    early, late = statistics.median(seen[10:30]), statistics.median(seen[-20:])
    raw = {"early_mib": early, "late_mib": late, "lowest_mib": min(seen[10:]), "highest_mib": max(seen[10:])}
    return Measured(value=100 * (late / early - 1), raw=raw)


def slow_sockets(bench: Bench) -> Measured:
    """Measure the seconds until the server has closed all slow sockets."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        releases = Releases(Path(folder))
        releases.activate(releases.add(0))
        with running(home=releases.home) as (_, address):
            raw = bench.run_script("slow_sockets.py", address, str(SLOW), str(BUSY))
    fault = f"{raw['other']:.0f} replies are not 200 or 503" if raw["other"] else ""
    return Measured(value=raw["gone_s"], raw=raw, fault=fault if raw["answered"] else "no request was answered")


def resident(pid: int, figure: str) -> float:
    """Return the memory of a process in MiB: current (VmRSS) or peak (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(re.finditer(rf"{figure}:\s+(\d+) kB", status))[1]) / 1024


def failures(address: str) -> int:
    """Return the number of failed swaps."""
    found = re.search(rb"^randygpt_model_swap_failures_total (.*)$", ask(address, "/metrics"), re.MULTILINE)
    return int(float(found[1])) if found else 0


def health(address: str) -> dict[str, str | None]:
    """Return the server's health report."""
    found: dict[str, str | None] = json.loads(ask(address, "/health"))
    return found


def ask(address: str, path: str, body: object = None, *, post: bool = False) -> bytes:
    """Send a request and return the body of the reply."""
    data = json.dumps(body).encode() if post else None
    request = urllib.request.Request(address + path, data, {"Authorization": f"Bearer {KEY}"})  # noqa: S310 (our own)
    with urllib.request.urlopen(request, timeout=600) as response:  # noqa: S310
        found: bytes = response.read()
    return found


ROWS = (
    Row(
        name=f"{SWAPS} swaps and 5 bad releases in {SECONDS} s, {CLIENTS} clients: growth of p99 gap between tokens",
        unit="ms",
        goal=50,
        at_most=True,
        measure=gap_growth,
    ),
    Row(
        name="server memory beyond its process, two models and their caches",
        unit="MiB",
        goal=64,
        at_most=True,
        measure=memory_above,
    ),
    Row(name="server memory growth in 100 swaps", unit="%", goal=5, at_most=True, measure=memory_growth),
    Row(
        name=f"{SLOW} slow sockets closed while {BUSY} busy clients send requests",
        unit="s",
        goal=25,
        at_most=True,
        measure=slow_sockets,
    ),
)
