"""Options of a training run, and the rule that fills in what no flag gives. No I/O."""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randygpt.checkpoint.header import MAX_COUNT
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.errors import CallerError
from randygpt.model.config import default_batch_size
from randygpt.training.recipe import CLASSIC, RECIPES, find_recipe
from relay_client.errors import quote

PRECISIONS = ("float32", "bf16")
DEFAULT_SEED = 1337
DEFAULT_ITERATIONS = 1000  # of the fast recipe, with its preset: under two minutes on two cores


@dataclass(frozen=True, slots=True)
class _Interval:
    """The numbers from `low` to below `high`."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value < self.high


_RATES = _Interval(math.ulp(0.0), math.inf)
LIMITS = {"iterations": range(1, MAX_COUNT + 1), "batch_size": range(1, 1 << 24), "seed": range(1 << 31)}
_ALLOWED: Mapping[str, Container[Any]] = {
    **LIMITS,
    "recipe": RECIPES,
    "accumulate": LIMITS["batch_size"],
    "max_lr": _RATES,
    "min_lr": _RATES,
    "dropout": _Interval(0.0, 1.0),
    "precision": PRECISIONS,
    "drop_unknown": (False, True),
}
_FLAGS = {  # options that a sidecar records, as the user knows them
    "recipe": "--recipe",
    "iterations": "--iters",
    "batch_size": "--batch",
    "accumulate": "--accumulate",
    "seed": "--seed",
    "max_lr": "--lr",
    "min_lr": "--min-lr",
    "dropout": "dropout",
    "precision": "--precision",
    "drop_unknown": "--drop-unknown",
}
_OF_RECIPE = ("max_lr", "min_lr", "dropout")  # values of one recipe do not suit another


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainFlags:
    """The options for which a resumed run or a recipe has a default; None where no flag is given."""

    iterations: int | None = None
    recipe: str | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    seed: int | None = None
    max_lr: float | None = None
    min_lr: float | None = None
    dropout: float | None = None
    precision: str | None = None
    drop_unknown: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Options of a training run; a value out of range raises CallerError, naming the flag."""

    iterations: int  # to train up to, counted over the model's whole life
    recipe: str = CLASSIC
    batch_size: int = 64  # sequences per optimizer step, over all processes
    accumulate: int = 1  # micro-batches per optimizer step
    seed: int = DEFAULT_SEED
    max_lr: float = RECIPES[CLASSIC].max_lr
    min_lr: float = RECIPES[CLASSIC].min_lr
    dropout: float = RECIPES[CLASSIC].dropout
    device: str = "cpu"
    precision: str = "float32"  # of the layers in training steps: float32 or bf16
    drop_unknown: bool = False  # train even if the vocabulary lacks more than a fifth of the text's characters
    prefix: Path = Path("checkpoint")

    def __post_init__(self) -> None:
        for name, allowed in LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or value not in allowed:
                raise CallerError(
                    f"{_FLAGS[name]} must be from {allowed.start} to {allowed.stop - 1}, not {quote(value)}"
                )
        if type(self.accumulate) is not int or not 1 <= self.accumulate <= self.batch_size:
            raise CallerError(
                f"--accumulate must be from 1 to the batch size, {self.batch_size}, not {quote(self.accumulate)}"
            )
        if self.max_lr not in _ALLOWED["max_lr"]:
            raise CallerError(f"--lr must be a finite number above 0, not {self.max_lr}")
        if not 0 < self.min_lr <= self.max_lr:
            raise CallerError(f"--min-lr must be above 0 and at most --lr ({self.max_lr:g}), not {self.min_lr:g}")
        if self.dropout not in _ALLOWED["dropout"]:
            raise CallerError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.precision not in PRECISIONS:
            raise CallerError(f"--precision must be {' or '.join(PRECISIONS)}, not {self.precision}")
        find_recipe(self.recipe)

    def to_json(self) -> dict[str, object]:
        """Return the options that a sidecar records, for `--resume`."""
        values = {name: getattr(self, name) for name in _FLAGS}
        return values | {name: float(values[name]) for name in _OF_RECIPE}

    @property
    def latest(self) -> Path:
        """Path of the latest checkpoint."""
        return self.prefix.with_name(f"{self.prefix.name}.bin")

    @property
    def best(self) -> Path:
        """Path of the checkpoint with the lowest validation loss."""
        return self.prefix.with_name(f"{self.prefix.name}_best.bin")

    @property
    def metrics(self) -> Path:
        """Path of the metrics file."""
        return self.prefix.with_name(f"{self.prefix.name}.metrics.jsonl")


def resolve_options(
    flags: TrainFlags,
    *,
    resumed: Sidecar | None,
    recipe: str,
    preset: str | None,
    precision: str,
    forked: bool = False,
    **others: Any,  # noqa: ANN401 (fields of TrainOptions)
) -> TrainOptions:
    """Return the options of a run. A flag overrides the value of the resumed run, which overrides the recipe's default.

    Args:
        flags: What the user asked for.
        resumed: The sidecar of the checkpoint to resume; None for a new model or fine-tuning.
        recipe: The default recipe.
        preset: The model's preset, which sets the batch size of the classic recipe; None for the recipe's default.
        precision: The default precision on this machine.
        forked: Start from a trained model, with the recipe's learning rate for that.
        **others: The remaining fields of `TrainOptions`.

    Raises:
        CallerError: A flag is out of range.
        InvalidModelFile: The sidecar has a value that is out of range.
    """
    recipe = _choose("recipe", recipe, flags, resumed)
    defaults = find_recipe(recipe)
    usual = defaults.batch_size or default_batch_size(preset or defaults.preset)
    batch_size = _choose("batch_size", usual, flags, resumed)
    accumulate = _choose("accumulate", 1, flags, resumed)
    same = resumed if resumed and resumed.training.get("recipe", CLASSIC) == recipe else None
    max_lr = _choose("max_lr", defaults.fork_lr if forked else defaults.max_lr, flags, same)
    min_lr = _choose("min_lr", defaults.min_lr, flags, same)
    return TrainOptions(
        iterations=_choose("iterations", DEFAULT_ITERATIONS, flags, resumed),
        recipe=recipe,
        batch_size=batch_size,
        accumulate=min(accumulate, batch_size) if flags.accumulate is None else accumulate,
        seed=_choose("seed", DEFAULT_SEED, flags, resumed),
        max_lr=max_lr,
        min_lr=min(min_lr, max_lr) if flags.min_lr is None else min_lr,
        dropout=_choose("dropout", defaults.dropout, flags, same),
        precision=_choose("precision", precision, flags, resumed),
        drop_unknown=_choose("drop_unknown", False, flags, resumed),
        **others,
    )


def _choose(name: str, default: Any, flags: TrainFlags, resumed: Sidecar | None) -> Any:  # noqa: ANN401 (of any type)
    """Return a flag's value, else the resumed run's, else the default."""
    flag = getattr(flags, name)
    if flag is not None or resumed is None:
        return default if flag is None else flag
    return resumed.training_value(name, default, _ALLOWED[name])


def describe_changes(options: TrainOptions, resumed: Sidecar) -> str:
    """Return one line that names the options that differ from the resumed run's; empty if none does."""
    recorded = resumed.training
    other_recipe = recorded.get("recipe", CLASSIC) != options.recipe
    changed = []
    for name, value in options.to_json().items():
        if name in recorded and recorded[name] != value:
            before = recorded[name]
            is_valid = type(before) is type(value) and before in _ALLOWED[name]
            changed.append(f"{_FLAGS[name]} {_shown(value)} (was {_shown(before) if is_valid else 'invalid'})")
        elif name not in recorded and other_recipe and name in _OF_RECIPE:
            changed.append(f"{_FLAGS[name]} {_shown(value)}")
    return f"changed since the checkpoint was saved: {', '.join(changed)}" if changed else ""


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
