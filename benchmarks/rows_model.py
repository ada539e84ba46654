"""Rows about training, decoding and BPE; `RECIPE_ROWS`, about the fast recipe, take longer."""

import functools
import math
import statistics
from collections.abc import Callable
from functools import partial

from measure import BASELINE, TEXT, Bench, Measured, Raw, Row, compare, iteration_ms, ratio, total_ms

from randygpt.training.recipe import RECIPES

CLASSIC_RUN = ("--recipe", "classic", "--preset", "s", "--iters", "20")
CLASSIC_ITERATIONS = 1000  # that a fast run is compared with
RECIPE_ROUNDS = 2


def training(bench: Bench, preset: str, plain_steps: int) -> Measured:
    """Compare an iteration of the plain program with one of `randygpt train`, batch size 64."""
    return compare(
        lambda: bench.plain_training_ms(preset, plain_steps),
        lambda: iteration_ms(bench.train("--recipe", "classic", "--preset", preset, "--iters", "20")),
    )


def decoding(bench: Bench) -> Measured:
    """Compare a decoded token of the plain program with one of ours."""
    return compare(bench.plain_decoding_ms, lambda: 1e3 / bench.run_script("decoding.py")["tokens_per_s"])


@functools.cache  # shared by two rows
def bpe(bench: Bench) -> Raw:
    """Return the medians of three runs."""
    runs = [bench.run_script("bpe.py", str(bench.text)) for _ in range(3)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def training_bpe(bench: Bench) -> Measured:
    """Measure seconds, and the ratio to the library's plain call."""
    raw = bpe(bench)
    ours, plain = raw["train_s"], raw["plain_train_s"]
    return Measured(value=ours, raw={"ours_s": ours, "plain_s": plain, "ratio": plain / ours})


def encoding_bpe(bench: Bench) -> Measured:
    """Measure MB/s, and the ratio to the library's plain call."""
    raw = bpe(bench)
    ours, plain = raw["encode_s"], raw["plain_encode_s"]
    return Measured(value=raw["bytes"] / ours / 1e6, raw={"ours_s": ours, "plain_s": plain, "ratio": plain / ours})


def evaluating(bench: Bench, recipe: str, preset: str) -> Measured:
    """Measure the share of a long run that evaluation takes, in per cent; a short run evaluates more often."""
    metrics = bench.train("--recipe", recipe, "--preset", preset, "--iters", "50")
    usual = iteration_ms(metrics)
    evaluations = [line["ms_per_iter"] - usual for line in metrics if "val_loss" in line]
    evaluation = statistics.median(evaluations)
    interval = RECIPES[recipe].eval_every
    return Measured(
        value=100 * evaluation / (interval * usual + evaluation),
        raw={"iteration_ms": usual, "evaluation_ms": evaluation, "evaluations": len(evaluations)},
    )


def fast_s(bench: Bench, iterations: int, max_loss: float) -> Measured:
    """Compare 1,000 classic iterations, extrapolated from a few, with a fast run that reaches the same loss."""

    def classic_ms() -> float:
        return CLASSIC_ITERATIONS * iteration_ms(bench.train(*CLASSIC_RUN))

    return fast(bench, classic_ms, "s", iterations, max_loss, inverse=False)


def fast_xs(bench: Bench, iterations: int, max_loss: float) -> Measured:
    """Measure a fast run in units of an iteration of the plain program, preset s."""
    return fast(bench, lambda: bench.plain_training_ms("s", 4), "xs", iterations, max_loss, inverse=True)


def fast(
    bench: Bench, reference_ms: Callable[[], float], preset: str, iterations: int, max_loss: float, *, inverse: bool
) -> Measured:
    """Compare complete fast runs with a reference; a final loss above `max_loss` is a fault."""
    pairs, losses = [], []
    for _ in range(RECIPE_ROUNDS):
        reference = reference_ms()
        metrics = bench.train("--recipe", "fast", "--preset", preset, "--iters", str(iterations))
        pairs.append((reference, total_ms(metrics)))
        losses.append(metrics[-1]["val_loss"])
    found = ratio(pairs, inverse=inverse)
    fault = "" if max(losses) <= max_loss else f"validation loss {max(losses):.4f}, above {max_loss:.4f}"
    return Measured(value=found.value, raw={**found.raw, "val_loss": max(losses)}, fault=fault)


ROWS = (
    Row(
        name="training iteration, preset s, batch 64",
        unit="x",
        goal=3.5,
        needs=(BASELINE,),
        measure=partial(training, preset="s", plain_steps=5),
    ),
    Row(
        name="training iteration, preset l, batch 64",
        unit="x",
        goal=3.5,
        needs=(BASELINE,),
        measure=partial(training, preset="l", plain_steps=3),
    ),
    Row(
        name="decoding, preset l, vocabulary 2000, 200 tokens",
        unit="x",
        goal=10,
        needs=(BASELINE,),
        measure=decoding,
    ),
    Row(
        name="BPE training, vocabulary 500",
        unit="s",
        goal=3,
        at_most=True,
        needs=(TEXT,),
        measure=training_bpe,
    ),
    Row(
        name="BPE encoding, vocabulary 500",
        unit="MB/s",
        goal=5,
        needs=(TEXT,),
        measure=encoding_bpe,
    ),
    Row(
        name="share of evaluation in training, preset s",
        unit="%",
        goal=5,
        at_most=True,
        measure=lambda bench: evaluating(bench, "classic", "s"),
    ),
    Row(
        name="share of evaluation in training, preset xs, fast recipe",
        unit="%",
        goal=5,
        at_most=True,
        measure=lambda bench: evaluating(bench, "fast", "xs"),
    ),
)

RECIPE_ROWS = (
    Row(
        name="fast recipe, preset s, to perplexity 11.15, against 1000 classic iterations",
        unit="x",
        goal=20,
        needs=(TEXT,),
        measure=partial(fast_s, iterations=120, max_loss=math.log(11.15)),
    ),
    Row(
        name="fast recipe, preset xs, to loss 1.886, in plain iterations of preset s",
        unit="iterations",
        goal=15,
        at_most=True,
        needs=(BASELINE, TEXT),
        measure=partial(fast_xs, iterations=380, max_loss=1.886),
    ),
)
