"""Rows about whole releases on real relays, each in a process of its own: against nostr-sdk's client, and memory.

An xl checkpoint with moments: 172 MB, 3,738 chunks. `NETWORK_EVENTS` in the environment makes it fewer, to try things.
"""

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from measure import ROUNDS, Bench, Measured, Row, ratio

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # it has the other relays
from support.relays import NPM_MODULES, PYTHON_RELAY, find_free_port, npm_relay, python_relay

from distribution.chunking import CHUNK_SIZE
from distribution.events import chunk_draft
from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import Checkpoint, write_checkpoint
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.model.config import ModelConfig
from randygpt.model.tokenizer import CharTokenizer
from relay_client.keys import SecretKey

EVENTS = int(os.environ.get("NETWORK_EVENTS", "3738"))
RELAYS = {"LocalRelay": 1.5, "LocalRelay on disk": 1.5, "nostr-relay, sqlite": 1, "nostr-relay, LMDB": 1, "npm": 1}
LOOK_S = 0.02
PROGRAMS = {"npm": NPM_MODULES, "nostr-relay, sqlite": PYTHON_RELAY, "nostr-relay, LMDB": PYTHON_RELAY}
CHARACTERS = CharTokenizer([chr(point) for point in range(ord("0"), ord("0") + 65)])
LARGE = ModelConfig.from_preset("xl", vocab_size=CHARACTERS.vocab_size)
IDLE = ModelConfig(n_embd=16, n_head=2, n_layer=1, vocab_size=CHARACTERS.vocab_size)  # ten events: nearly no work


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[str]:
    """A relay with nothing in it; gives its address."""
    folder.mkdir()
    if name == "npm":
        manager = npm_relay(folder)
    elif name.startswith("nostr-relay"):
        manager = python_relay(folder, find_free_port(), name.split(", ")[1].lower())
    else:
        manager = own_relay(folder / "data" if "disk" in name else None)
    with manager as url:
        yield url


@contextlib.contextmanager
def own_relay(data: Path | None) -> Iterator[str]:
    """The embedded relay, as a process."""
    command = [sys.executable, "-m", "randygpt", "relay", "--port", str(find_free_port())]
    command += ["--data", str(data)] if data else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


@functools.cache
def events(folder: Path) -> Path:
    """A file with the signed events, one a line."""
    path, key = folder / "events.jsonl", SecretKey.generate()
    with path.open("wb") as file:
        for _ in range(EVENTS):
            data = os.urandom(CHUNK_SIZE)
            event = chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=1).sign(key)
            file.write(event.to_json() + b"\n")
    return path


def publishing(name: str, bench: Bench) -> Measured:
    """nostr-sdk's client and ours, each with the same events and an empty relay."""
    pairs = [(publish_ms(name, bench, "sdk", turn), publish_ms(name, bench, "ours", turn)) for turn in range(ROUNDS)]
    return ratio(pairs)


def publish_ms(name: str, bench: Bench, who: str, turn: int) -> float:
    """Ms for one client, and one empty relay."""
    with running(name, bench.folder / f"{name}-{who}-{turn}") as url:
        return bench.alone("network.py", who, "publish", url, str(events(bench.folder)))["ms"]


def fetching(against: str, name: str, bench: Bench) -> Measured:
    """A client and ours, each fetching the same events from the same relay: A B B A A B B A.

    In turns A B A B one of the two would always meet npm's relay in the slower of two states between which it changes.
    """
    with running(name, bench.folder / f"{name}-fetch-{against}") as url:
        words = ("fetch", url, str(events(bench.folder)))
        bench.alone("network.py", "ours", "publish", *words[1:])
        pairs = []
        for order in 2 * [(against, "ours"), ("ours", against)]:
            ms = {who: bench.alone("network.py", who, *words)["ms"] for who in order}
            pairs.append((ms[against], ms["ours"]))
    raw = ratio(pairs).raw
    return Measured(value=raw["reference_ms"] / raw["ours_ms"], raw=raw)


@functools.cache
def peaks(bench: Bench, config: ModelConfig) -> dict[str, float]:
    """Most resident MiB of a publish and of a fetch of a checkpoint of this shape."""
    folder = bench.folder / f"memory-{config.parameter_count}"
    folder.mkdir()
    write_model(folder / "m.bin", config)
    with own_relay(None) as url:
        peak_mib(folder, "author", "keys", "new", "--json")
        publish, published = peak_mib(folder, "author", "publish", "m.bin", "--relay", url, "--json")
        fetch, _ = peak_mib(folder, "reader", "fetch", str(published["release"]), "--relay", url, "--json")
    return {"publish": publish, "fetch": fetch}


def peak_mib(folder: Path, home: str, *words: str) -> tuple[float, dict[str, object]]:
    """(Most resident MiB of a command, what it printed)."""
    environment = os.environ | {"RANDYGPT_HOME": str(folder / home)}
    with (folder / "printed").open("w+b") as printed:
        command = [sys.executable, "-m", "randygpt", *words]
        peak = 0.0
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=printed) as process:
            while process.poll() is None:  # what the kernel tells afterwards includes the parent's
                peak = max(peak, resident_peak(process.pid))
                time.sleep(LOOK_S)
        if process.returncode:
            raise RuntimeError(f"{words} ended with {process.returncode}")
        printed.seek(0)
        return peak, json.loads(printed.read() or b"{}")


def resident_peak(pid: int) -> float:
    """MiB that a process had at most so far; 0 if it has just ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def memory(what: str, bench: Bench) -> Measured:
    """How much more a large release takes than a small one."""
    idle, large = peaks(bench, IDLE)[what], peaks(bench, LARGE)[what]
    return Measured(value=large - idle, raw={"idle_mib": idle, "large_mib": large})


def write_model(path: Path, config: ModelConfig) -> None:
    """A checkpoint with moments, and its JSON."""
    draw = np.random.default_rng(1)
    weights, first, second = (draw.random(config.parameter_count, dtype=np.float32) for _ in range(3))
    header = CheckpointHeader(magic="RGPT0003", vocab_size=config.vocab_size, iteration=1, step=1, best_loss=1.0)
    checkpoint = Checkpoint(header=header, config=config, weights=weights, optimizer_state=(first, second))
    sidecar = Sidecar(config=config, tokenizer=CHARACTERS, name="m")
    write_checkpoint(path, checkpoint, (path.with_suffix(".json"), sidecar.encode()))


def row(words: str, name: str, measure: Callable[[str, Bench], Measured], goal: float) -> Row:
    """A row about one of the relays."""
    named = words.format(name)
    return Row(name=named, unit="x", measure=functools.partial(measure, name), goal=goal, program=PROGRAMS.get(name))


AGAINST_SDK = functools.partial(fetching, "sdk")
AGAINST_RAW = functools.partial(fetching, "raw")

ROWS = (
    *(row("publish an xl model to {}, against nostr-sdk", name, publishing, least) for name, least in RELAYS.items()),
    *(row("fetch and verify it from {}, against nostr-sdk", name, AGAINST_SDK, 2) for name in RELAYS),
    *(row("fetch and verify it from {}, against reading and dropping", name, AGAINST_RAW, 0.8) for name in RELAYS),
    *(
        Row(
            name=f"{what} it: memory above that of a tiny release",
            unit="MiB",
            measure=functools.partial(memory, what),
            goal=64,
            at_most=True,
        )
        for what in ("publish", "fetch")
    ),
)
