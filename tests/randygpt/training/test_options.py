"""Training options: their limits, their files, and what fills in for an absent flag."""

import math
from pathlib import Path
from typing import Any

import pytest
from support.models import CONFIG, TOKENIZER

from randygpt.checkpoint.sidecar import Sidecar
from randygpt.errors import CallerError, InvalidModelFile
from randygpt.training.options import DEFAULT_SEED, TrainFlags, TrainOptions, describe_changes, resolve_options
from randygpt.training.recipe import CLASSIC, RECIPES

FAST = RECIPES["fast"]
EVERY_FLAG = TrainFlags(
    iterations=9,
    accumulate=2,
    dropout=0.125,
    recipe="fast",
    batch_size=3,
    seed=4,
    max_lr=0.5,
    min_lr=0.25,
    precision="float32",
    drop_unknown=True,
)


def resumed(**training: object) -> Sidecar:
    return Sidecar(config=CONFIG, tokenizer=TOKENIZER, training=training)


def resolve(
    flags: TrainFlags, sidecar: Sidecar | None = None, *, recipe: str = CLASSIC, preset: str | None = None
) -> TrainOptions:
    return resolve_options(flags, resumed=sidecar, recipe=recipe, preset=preset, precision="bf16", prefix=Path("m"))


def test_a_new_run_takes_the_defaults_of_its_recipe() -> None:
    classic, fast = resolve(TrainFlags()), resolve(TrainFlags(recipe="fast"))
    assert classic == TrainOptions(
        iterations=1000, recipe=CLASSIC, batch_size=64, seed=DEFAULT_SEED, precision="bf16", prefix=Path("m")
    )
    assert (fast.recipe, fast.batch_size, fast.dropout) == ("fast", FAST.batch_size, FAST.dropout)
    assert (fast.max_lr, fast.min_lr, fast.iterations) == (FAST.max_lr, FAST.min_lr, 1000)
    assert resolve(TrainFlags(), recipe="fast") == fast
    assert resolve(TrainFlags(), preset="deep").batch_size == 16


def test_a_resumed_run_keeps_its_options() -> None:
    started = resolve(EVERY_FLAG)
    assert started.to_json() == {
        "recipe": "fast",
        "iterations": 9,
        "batch_size": 3,
        "accumulate": 2,
        "seed": 4,
        "max_lr": 0.5,
        "min_lr": 0.25,
        "dropout": 0.125,
        "precision": "float32",
        "drop_unknown": True,
    }
    assert resolve(TrainFlags(), resumed(**started.to_json())) == started
    assert describe_changes(started, resumed(**started.to_json())) == ""


def test_an_older_sidecar_leaves_the_recipes_defaults() -> None:
    options = resolve(TrainFlags(), resumed(recipe="fast", batch_size=5, seed=6, precision="float32"))
    assert (options.recipe, options.batch_size, options.seed, options.precision) == ("fast", 5, 6, "float32")
    assert (options.max_lr, options.dropout) == (FAST.max_lr, FAST.dropout)
    assert resolve(TrainFlags(), resumed()) == resolve(TrainFlags())


def test_a_changed_option_is_named_in_one_line() -> None:
    sidecar = resumed(**resolve(EVERY_FLAG).to_json())
    options = resolve(TrainFlags(iterations=20, max_lr=0.1, batch_size=1), sidecar)
    assert describe_changes(options, sidecar) == (
        "changed since the checkpoint was saved: --iters 20 (was 9), --batch 1 (was 3), --accumulate 1 (was 2), "
        "--lr 0.1 (was 0.5), --min-lr 0.1 (was 0.25)"
    )


def test_a_changed_recipe_brings_its_own_values() -> None:
    sidecar = resumed(**resolve(TrainFlags(max_lr=0.5, min_lr=0.25, seed=4)).to_json())
    options = resolve(TrainFlags(recipe="fast"), sidecar)
    assert (options.max_lr, options.min_lr, options.dropout) == (FAST.max_lr, FAST.min_lr, FAST.dropout)
    assert (options.seed, options.batch_size) == (4, 64)
    assert describe_changes(options, sidecar) == (
        "changed since the checkpoint was saved: --recipe fast (was classic), --lr 0.03 (was 0.5), "
        "--min-lr 0.0015 (was 0.25), dropout 0 (was 0.1)"
    )
    older = resumed(recipe="classic")
    assert describe_changes(resolve(TrainFlags(recipe="fast"), older), older).endswith(
        "--recipe fast (was classic), --lr 0.03, --min-lr 0.0015, dropout 0"
    )
    text = describe_changes(resolve(EVERY_FLAG), resumed(recipe="\x1b[2J", seed=[1]))
    assert "--recipe fast (was invalid)" in text
    assert "--seed 4 (was invalid)" in text


def test_flags_override_the_resumed_run() -> None:
    options = resolve(EVERY_FLAG, resumed(recipe=CLASSIC, batch_size=5, seed=6, precision="bf16"))
    assert (options.recipe, options.batch_size, options.seed, options.precision) == ("fast", 3, 4, "float32")
    assert (options.max_lr, options.min_lr) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("max_lr", "min_lr"), [(1e-3, 1e-5), (1e-6, 1e-6)], ids=["above the default minimum", "below it"]
)
def test_min_lr_follows_a_lower_lr(max_lr: float, min_lr: float) -> None:
    assert resolve(TrainFlags(max_lr=max_lr)).min_lr == min_lr


@pytest.mark.parametrize(
    "training",
    [
        {"recipe": "slow"},
        {"iterations": 0},
        {"batch_size": 0},
        {"accumulate": 0},
        {"seed": "1"},
        {"precision": "fp8"},
        {"max_lr": math.nan},
        {"max_lr": 0.0},
        {"min_lr": math.inf},
        {"min_lr": "0.1"},
        {"dropout": 1.0},
        {"dropout": -0.5},
    ],
    ids=str,
)
def test_a_sidecar_out_of_range_is_refused(training: dict[str, object]) -> None:
    with pytest.raises(InvalidModelFile, match=next(iter(training))):
        resolve(TrainFlags(), resumed(**training))
    resolve(EVERY_FLAG, resumed(**training))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "--iters must be from 1 to 4294967295, not 0"),
        ({"iterations": 1.5}, "--iters must be"),
        ({"batch_size": 0}, "--batch must be"),
        ({"seed": -1}, "--seed must be"),
        ({"seed": 1 << 31}, "--seed must be from 0 to 2147483647, not 2147483648"),
        ({"max_lr": 0.0}, "--lr must be a finite number above 0, not 0.0"),
        ({"max_lr": math.nan}, "--lr must be"),
        ({"max_lr": math.inf}, "--lr must be"),
        ({"min_lr": 0.0}, r"--min-lr must be above 0 and at most --lr \(0.0001\), not 0"),
        ({"min_lr": 1.0}, "--min-lr must be"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"dropout": -0.1}, "dropout must be"),
        ({"dropout": math.nan}, "dropout must be"),
        ({"accumulate": 0}, "--accumulate must be"),
        ({"accumulate": 65}, "--accumulate must be from 1 to the batch size, 64, not 65"),
        ({"precision": "fp8"}, "--precision must be float32 or bf16, not fp8"),
        ({"recipe": "slow"}, "--recipe must be classic or fast, not slow"),
    ],
    ids=str,
)
def test_options_out_of_range_name_the_flag(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CallerError, match=message):
        TrainOptions(**({"iterations": 10} | changes))


@pytest.mark.parametrize("prefix", ["m", "run.v2"])
def test_files_are_named_after_the_prefix(prefix: str) -> None:
    made = TrainOptions(iterations=1, prefix=Path("runs") / prefix)
    assert (made.latest, made.best, made.metrics) == (
        Path("runs") / f"{prefix}.bin",
        Path("runs") / f"{prefix}_best.bin",
        Path("runs") / f"{prefix}.metrics.jsonl",
    )
