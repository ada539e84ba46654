"""Rows about the server: texts over HTTP, of preset l with a vocabulary of 2,000, against the plain loop."""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure import BASELINE, ROUNDS, Bench, Measured, Row, ratio

from randygpt.checkpoint import Checkpoint, write_checkpoint
from randygpt.config import ModelConfig
from randygpt.header import CheckpointHeader
from randygpt.sidecar import Sidecar
from randygpt.tokenizer import CharTokenizer

VOCAB = 2000
TOKENS = 200


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """`randygpt serve` with random weights, as a process; gives its address.

    Its choices are about as sharp as a trained model's, so that the likeliest tokens are few.
    """
    config = ModelConfig.from_preset("l", vocab_size=VOCAB)
    weights = np.random.default_rng(0).standard_normal(config.parameter_count, dtype=np.float32) * np.float32(0.02)
    weights[-VOCAB * config.n_embd :] *= 10  # the last matrix gives the logits
    header = CheckpointHeader(magic="RGPT0002", vocab_size=VOCAB, iteration=0, step=0, best_loss=1.0)
    sidecar = Sidecar(config=config, tokenizer=CharTokenizer([chr(point) for point in range(33, 33 + VOCAB)]))
    path = folder / "served.bin"
    checkpoint = Checkpoint(header=header, config=config, weights=weights, moments=None)
    write_checkpoint(path, checkpoint, (path.with_suffix(".json"), sidecar.encode()))
    command = [sys.executable, "-m", "randygpt", "serve", "--model", str(path), "--port", "0", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


def completing(clients: int, how: str, bench: Bench) -> Measured:
    """The plain program's token, and ours of all clients together, in ms."""
    pairs, ours = [], {}
    with serving(bench.folder) as address:
        for _ in range(ROUNDS):
            plain_ms = bench.plain_decoding_ms()
            ours = bench.alone("clients.py", address, str(clients), str(TOKENS), how)
            if ours["ended"] < clients:
                raise RuntimeError(f"{ours['ended']:.0f} of {clients} texts")
            pairs.append((plain_ms, 1e3 / ours["tokens_per_s"]))
    measured = ratio(pairs)
    return Measured(value=measured.value, raw=measured.raw | ours)


ROWS = tuple(
    Row(
        name=f"served over HTTP: {words}, 200 tokens each",
        unit="x",
        goal=goal,
        needs=(BASELINE,),
        measure=functools.partial(completing, clients, how),
    )
    for clients, how, words, goal in ((1, "stream", "one client, streamed", 9), (32, "whole", "32 clients", 70))
)
