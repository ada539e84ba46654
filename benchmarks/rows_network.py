"""Rows about complete releases on real relays, against nostr-sdk's client, and about memory.

Clients and relays run in separate processes. The release is an xl checkpoint with optimizer state: 172 MB, 3,738
chunks. The variable `NETWORK_EVENTS` sets a smaller number for quick trials.
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
POLL_S = 0.02
PROGRAMS = {"npm": NPM_MODULES, "nostr-relay, sqlite": PYTHON_RELAY, "nostr-relay, LMDB": PYTHON_RELAY}
CHARACTERS = CharTokenizer([chr(point) for point in range(ord("0"), ord("0") + 65)])
LARGE = ModelConfig.from_preset("xl", vocab_size=CHARACTERS.vocab_size)
IDLE = ModelConfig(n_embd=16, n_head=2, n_layer=1, vocab_size=CHARACTERS.vocab_size)  # ten events: almost no work


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[str]:
    """Run an empty relay; yield its address."""
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
    """Run the built-in relay as a process; yield its address."""
    command = [sys.executable, "-m", "randygpt", "relay", "--port", str(find_free_port())]
    command += ["--data", str(data)] if data else ["--memory"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


@functools.cache
def events(folder: Path) -> Path:
    """Create the file with the signed events, one per line."""
    path, key = folder / "events.jsonl", SecretKey.generate()
    with path.open("wb") as file:
        for _ in range(EVENTS):
            data = os.urandom(CHUNK_SIZE)
            event = chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=1).sign(key)
            file.write(event.to_json() + b"\n")
    return path


def publishing(name: str, bench: Bench) -> Measured:
    """Compare nostr-sdk's client with ours, publishing the same events to an empty relay."""
    pairs = [(publish_ms(name, bench, "sdk", turn), publish_ms(name, bench, "ours", turn)) for turn in range(ROUNDS)]
    return ratio(pairs)


def publish_ms(name: str, bench: Bench, client: str, turn: int) -> float:
    """Measure one client that publishes to an empty relay, in ms."""
    with running(name, bench.folder / f"{name}-{client}-{turn}") as url:
        return bench.run_script("network.py", client, "publish", url, str(events(bench.folder)))["ms"]


def fetching(against: str, name: str, bench: Bench) -> Measured:
    """Compare a client with ours, fetching the same events from the same relay in the order A B B A A B B A.

    With A B A B, one of the two would always meet npm's relay in the slower of two states between which it alternates.
    """
    with running(name, bench.folder / f"{name}-fetch-{against}") as url:
        arguments = ("fetch", url, str(events(bench.folder)))
        bench.run_script("network.py", "ours", "publish", *arguments[1:])
        pairs = []
        for order in 2 * [(against, "ours"), ("ours", against)]:
            ms = {client: bench.run_script("network.py", client, *arguments)["ms"] for client in order}
            pairs.append((ms[against], ms["ours"]))
    raw = ratio(pairs).raw
    return Measured(value=raw["reference_ms"] / raw["ours_ms"], raw=raw)


@functools.cache
def peaks(bench: Bench, config: ModelConfig) -> dict[str, float]:
    """Measure peak memory of publishing and of fetching a checkpoint of this shape, in MiB."""
    folder = bench.folder / f"memory-{config.parameter_count}"
    folder.mkdir()
    write_model(folder / "m.bin", config)
    with own_relay(None) as url:
        peak_mib(folder, "author", "keys", "new", "--json")
        publish, published = peak_mib(folder, "author", "publish", "m.bin", "--relay", url, "--json")
        fetch, _ = peak_mib(folder, "reader", "fetch", str(published["release"]), "--relay", url, "--json")
    return {"publish": publish, "fetch": fetch}


def peak_mib(folder: Path, home: str, *arguments: str) -> tuple[float, dict[str, object]]:
    """Run a command; return its peak memory in MiB and the JSON object it printed."""
    environment = os.environ | {"RANDYGPT_HOME": str(folder / home)}
    with (folder / "printed").open("w+b") as printed:
        command = [sys.executable, "-m", "randygpt", *arguments]
        peak = 0.0
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=printed) as process:
            while process.poll() is None:  # the kernel's figure after the end includes the parent's memory
                peak = max(peak, resident_peak(process.pid))
                time.sleep(POLL_S)
        if process.returncode:
            raise RuntimeError(f"{arguments} ended with {process.returncode}")
        printed.seek(0)
        return peak, json.loads(printed.read() or b"{}")


def resident_peak(pid: int) -> float:
    """Return the peak memory of a process so far, in MiB; 0 if it has just ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def memory(command: str, bench: Bench) -> Measured:
    """Measure how much more memory a large release takes than a tiny one."""
    idle, large = peaks(bench, IDLE)[command], peaks(bench, LARGE)[command]
    return Measured(value=large - idle, raw={"idle_mib": idle, "large_mib": large})


def write_model(path: Path, config: ModelConfig) -> None:
    """Write a checkpoint with optimizer state, and its JSON."""
    draw = np.random.default_rng(1)
    weights, first, second = (draw.random(config.parameter_count, dtype=np.float32) for _ in range(3))
    header = CheckpointHeader(magic="RGPT0003", vocab_size=config.vocab_size, iteration=1, step=1, best_loss=1.0)
    checkpoint = Checkpoint(header=header, config=config, weights=weights, optimizer_state=(first, second))
    sidecar = Sidecar(config=config, tokenizer=CHARACTERS, name="m")
    write_checkpoint(path, checkpoint, (path.with_suffix(".json"), sidecar.encode()))


def row(template: str, name: str, measure: Callable[[str, Bench], Measured], goal: float) -> Row:
    """Return a row about one of the relays."""
    named = template.format(name)
    return Row(name=named, unit="x", measure=functools.partial(measure, name), goal=goal, program=PROGRAMS.get(name))


AGAINST_SDK = functools.partial(fetching, "sdk")
AGAINST_RAW = functools.partial(fetching, "raw")

ROWS = (
    *(row("publish an xl model to {}, against nostr-sdk", name, publishing, goal) for name, goal in RELAYS.items()),
    *(row("fetch and verify an xl model from {}, against nostr-sdk", name, AGAINST_SDK, 2) for name in RELAYS),
    *(
        row("fetch and verify an xl model from {}, against reading and discarding", name, AGAINST_RAW, 0.8)
        for name in RELAYS
    ),
    *(
        Row(
            name=f"memory above that of a tiny release: {command}",
            unit="MiB",
            measure=functools.partial(memory, command),
            goal=64,
            at_most=True,
        )
        for command in ("publish", "fetch")
    ),
)
