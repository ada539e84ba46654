"""Rows about the server: tokens over HTTP, preset l with a vocabulary of 2,000, against the plain program."""

import contextlib
import functools
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure import BASELINE, ROUNDS, SCRIPTS, Bench, Measured, Row, ratio

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import Array, Checkpoint, write_checkpoint
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.model.config import ModelConfig
from randygpt.model.tokenizer import CharTokenizer
from server.memory import MAX_SLOTS

VOCAB = 2000
TOKENS = 200
PROMPT = 128  # tokens


CONFIG = ModelConfig.from_preset("l", vocab_size=VOCAB)
CHARACTERS = CharTokenizer([chr(point) for point in range(33, 33 + VOCAB)])
HEADER = CheckpointHeader(magic="RGPT0002", vocab_size=VOCAB, iteration=0, step=0, best_loss=1.0)


def weights(seed: int) -> Array:
    """Return random weights whose token distribution is about as sharp as that of a trained model."""
    flat = np.random.default_rng(seed).standard_normal(CONFIG.parameter_count, dtype=np.float32) * np.float32(0.02)
    flat[-VOCAB * CONFIG.n_embd :] *= 10  # lm_head
    return flat


@contextlib.contextmanager
def running(*arguments: str, home: Path) -> Iterator[tuple[int, str]]:
    """Run `randygpt serve` as a process; yield its process id and address."""
    command = [sys.executable, "-m", "randygpt", "serve", "--port", "0", "--quiet", *arguments]
    environment = os.environ | {"RANDYGPT_HOME": str(home)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process.pid, process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


def random_checkpoint(folder: Path) -> Path:
    """Write a checkpoint with random weights and return its path."""
    path = folder / "served.bin"
    checkpoint = Checkpoint(header=HEADER, config=CONFIG, weights=weights(0), optimizer_state=None)
    sidecar = Sidecar(config=CONFIG, tokenizer=CHARACTERS)
    write_checkpoint(path, checkpoint, (path.with_suffix(".json"), sidecar.encode()))
    return path


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """Run a server with random weights; yield its address."""
    path = random_checkpoint(folder)
    with running("--model", str(path), *arguments, home=folder) as (_, address):
        yield address


def completing(clients: int, mode: str, bench: Bench) -> Measured:
    """Compare ms per token of the plain program with ours, over all clients together."""
    pairs, ours = [], {}
    with serving(bench.folder) as address:
        for _ in range(ROUNDS):
            plain_ms = bench.plain_decoding_ms()
            ours = bench.run_script("clients.py", address, str(clients), str(TOKENS), mode)
            if ours["ended"] < clients:
                raise RuntimeError(f"{ours['ended']:.0f} of {clients} replies were complete")
            pairs.append((plain_ms, 1e3 / ours["tokens_per_s"]))
    measured = ratio(pairs)
    return Measured(value=measured.value, raw=measured.raw | ours)


def first_token(bench: Bench) -> Measured:
    """Compare time to first token over HTTP with a prefill and two decode steps computed in a process, in ms."""
    pairs, figures = [], {}
    with serving(bench.folder) as address:
        for _ in range(ROUNDS):
            figures = bench.run_script("first_token.py", str(PROMPT))
            served = bench.run_script("first_token.py", str(PROMPT), address)
            pairs.append((figures["prefill_ms"] + 2 * figures["step_ms"], served["first_ms"]))
    measured = ratio(pairs, inverse=True)
    return Measured(value=measured.value, raw=measured.raw | figures)


def first_token_under_flood(bench: Bench) -> Measured:
    """Compare time to first token of a key while another key requests all it can with that of an idle server, in ms."""
    keys, pairs = bench.folder / "keys.txt", []
    keys.write_text("calm\nflood\n", encoding="utf-8")
    with serving(bench.folder, "--api-key-file", str(keys)) as address:
        for _ in range(ROUNDS):
            idle_ms = bench.run_script("first_token.py", str(PROMPT), address, "calm")["first_ms"]
            with flooding(address, "flood"):
                busy_ms = bench.run_script("first_token.py", str(PROMPT), address, "calm")["first_ms"]
            pairs.append((idle_ms, busy_ms))
    return ratio(pairs, inverse=True)


def loop_work(bench: Bench) -> Measured:
    """Measure the longest work of the event loop in one turn, for the largest requests that are accepted, in ms."""
    raw = bench.run_script("loop_work.py", str(random_checkpoint(bench.folder)))
    return Measured(value=max(raw.values()), raw=raw)


@contextlib.contextmanager
def flooding(address: str, key: str) -> Iterator[None]:
    """Have a process request all that a key can get; begins once the server is busy."""
    command = [sys.executable, str(SCRIPTS / "flood.py"), address, key]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            while sequences_running(address) < MAX_SLOTS:
                time.sleep(0.05)
            yield
        finally:
            process.communicate()
    while sequences_running(address):
        time.sleep(0.05)


def sequences_running(address: str) -> int:
    """Return the number of sequences that the server decodes."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as response:  # noqa: S310 (our own)
        found = re.search(rb"^randygpt_sequences_running (.*)$", response.read(), re.MULTILINE)
    return int(float(found[1])) if found else 0


ROWS = (
    *(
        Row(
            name=f"served over HTTP: {name}, 200 tokens each",
            unit="x",
            goal=goal,
            needs=(BASELINE,),
            measure=functools.partial(completing, clients, mode),
        )
        for clients, mode, name, goal in ((1, "stream", "one client, streamed", 9), (32, "whole", "32 clients", 70))
    ),
    Row(
        name=f"time to first token, prompt of {PROMPT}, relative to a prefill and two steps",
        unit="x",
        goal=1,
        at_most=True,
        measure=first_token,
    ),
    Row(
        name="time to first token while another key requests all it can, relative to an idle server",
        unit="x",
        goal=10,  # a few steps of all slots next to a prefill and two steps of one
        at_most=True,
        measure=first_token_under_flood,
    ),
    Row(
        name="longest work of the event loop in one turn, largest stop sequences, prompts and replies",
        unit="ms",
        goal=5,
        at_most=True,
        measure=loop_work,
    ),
)
