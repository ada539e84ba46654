"""Rows against the programs that people would use instead, each in the order A B B A.

They have a GPT-2 of random weights in the shape of our preset, with a vocabulary of 2,000, and all processor cores.
"""

import functools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import peer_installs
from measure import Bench, Measured, Row, iteration_ms, ratio
from rows_server import TOKENS, VOCAB, serving

from randygpt.model.config import ModelConfig

THREADS = str(os.cpu_count() or 1)
TRAINING_STEPS = 5
PRESETS = {"l": 1.0, "s": 1.3, "xs": 1.3}  # goal against llama.cpp, one sequence
CLIENTS = {1: 1.0, 8: 1.5, 32: 3.0}  # goal against as many sequences of llama.cpp


def a_b_b_a(reference: Callable[[], float], ours: Callable[[], float]) -> Measured:
    """Compare ms of reference and ours, in this order and then in the reverse one."""
    first, second, third, fourth = reference(), ours(), ours(), reference()
    return ratio([(first, second), (fourth, third)])


@functools.cache
def models(bench: Bench, preset: str) -> Path:
    """Write the models of the peers for a preset; return their folder."""
    shape = ModelConfig.from_preset(preset, vocab_size=VOCAB)
    folder = bench.folder / f"peers-{preset}"
    numbers = (shape.n_embd, shape.n_head, shape.n_layer, VOCAB)
    bench.run_peer("models.py", str(folder), *map(str, numbers))
    return folder


def llama_ms(bench: Bench, preset: str, sequences: int) -> float:
    """Measure ms per token of llama.cpp, over all sequences together."""
    model = str(models(bench, preset) / "model.gguf")
    raw = bench.run_peer("llama_cpp.py", str(peer_installs.LIBRARIES), model, str(sequences), str(TOKENS), THREADS)
    return 1e3 / raw["tokens_per_s"]


def ctranslate2_ms(bench: Bench, sequences: int) -> float:
    """Measure ms per token of CTranslate2 in float32, over all sequences together."""
    folder = str(models(bench, "l") / "ct2")
    raw = bench.run_peer("ctranslate2_decode.py", folder, str(sequences), str(TOKENS), THREADS, "float32")
    return 1e3 / raw["tokens_per_s"]


def transformers_ms(bench: Bench, sequences: int) -> float:
    """Measure ms per token of transformers, over all sequences together."""
    folder = str(models(bench, "l") / "hf")
    return 1e3 / bench.run_peer("transformers_decode.py", folder, str(sequences), str(TOKENS))["tokens_per_s"]


def decoding(bench: Bench, reference: Callable[[Bench], float], preset: str = "l") -> Measured:
    """Compare ms per token of one sequence, each program in its own process."""
    return a_b_b_a(lambda: reference(bench), lambda: 1e3 / bench.run_script("decoding.py", preset)["tokens_per_s"])


def served(bench: Bench, reference: Callable[[Bench], float], clients: int) -> Measured:
    """Compare ms per token of our server, over HTTP, with those of as many sequences in the other program's process."""

    def ours() -> float:
        figures = bench.run_script("clients.py", address, str(clients), str(TOKENS), "whole")
        if figures["ended"] < clients:
            raise RuntimeError(f"{figures['ended']:.0f} of {clients} replies were complete")
        return 1e3 / figures["tokens_per_s"]

    reference(bench)  # writes the models, before anything is measured
    with serving(bench.folder) as address:
        return a_b_b_a(lambda: reference(bench), ours)


def training(bench: Bench, preset: str) -> Measured:
    """Compare ms of an iteration, batch size 64, with dropout."""

    def compiled() -> float:
        numbers = (bench.vocab_size, 64, TRAINING_STEPS)
        return bench.run_peer("compiled_training.py", preset, *map(str, numbers))["ms_per_iter"]

    flags = ("--recipe", "classic", "--preset", preset, "--iters", "20")
    return a_b_b_a(compiled, lambda: iteration_ms(bench.train(*flags)))


ROWS = (
    *(
        Row(
            name=f"one sequence, preset {preset}: against llama.cpp, float32",
            unit="x",
            goal=goal,
            setup=peer_installs.llama_cpp,
            measure=partial(decoding, reference=partial(llama_ms, preset=preset, sequences=1), preset=preset),
        )
        for preset, goal in PRESETS.items()
    ),
    *(
        Row(
            name=f"clients over HTTP, preset l, {clients}: against llama.cpp in its process, float32",
            unit="x",
            goal=goal,
            setup=peer_installs.llama_cpp,
            measure=partial(served, reference=partial(llama_ms, preset="l", sequences=clients), clients=clients),
        )
        for clients, goal in CLIENTS.items()
    ),
    Row(
        name="one sequence, preset l: against CTranslate2, float32",
        unit="x",
        setup=peer_installs.python_packages,
        measure=partial(decoding, reference=partial(ctranslate2_ms, sequences=1)),
    ),
    Row(
        name="clients over HTTP, preset l, 32: against CTranslate2 in its process, float32",
        unit="x",
        setup=peer_installs.python_packages,
        measure=partial(served, reference=partial(ctranslate2_ms, sequences=32), clients=32),
    ),
    Row(
        name="one sequence, preset l: against transformers, float32",
        unit="x",
        setup=peer_installs.python_packages,
        measure=partial(decoding, reference=partial(transformers_ms, sequences=1)),
    ),
    *(
        Row(
            name=f"training iteration, preset {preset}, batch 64: against a compiled bf16 program",
            unit="x",
            goal=3.5,
            setup=peer_installs.compiler,
            measure=partial(training, preset=preset),
        )
        for preset in ("s", "l")
    ),
)
