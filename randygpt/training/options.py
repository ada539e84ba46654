"""Options of a training run, and the rule that fills in what no flag gives. No I/O."""

import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randygpt.checkpoint.header import MAX_COUNT
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.errors import CallerError
from randygpt.model.config import default_batch_size
from randygpt.training.recipe import CLASSIC, RECIPES, find_recipe

PRECISIONS = ("float32", "bf16")
DEFAULT_SEED = 1337
LIMITS = {"iterations": range(1, MAX_COUNT + 1), "batch_size": range(1, 1 << 24), "seed": range(1 << 31)}
_FLAGS = {"iterations": "--iters", "batch_size": "--batch", "seed": "--seed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainFlags:
    """The options for which a resumed run or a recipe has a default; None where no flag is given."""

    recipe: str | None = None
    batch_size: int | None = None
    seed: int | None = None
    max_lr: float | None = None
    min_lr: float | None = None
    precision: str | None = None


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
    prefix: Path = Path("checkpoint")

    def __post_init__(self) -> None:
        for name, flag in _FLAGS.items():
            value, allowed = getattr(self, name), LIMITS[name]
            if type(value) is not int or value not in allowed:
                raise CallerError(f"{flag} must be from {allowed.start} to {allowed.stop - 1}, not {value!r}")
        if type(self.accumulate) is not int or not 1 <= self.accumulate <= self.batch_size:
            raise CallerError(
                f"--accumulate must be from 1 to the batch size, {self.batch_size}, not {self.accumulate!r}"
            )
        if not 0 < self.max_lr < math.inf:
            raise CallerError(f"--lr must be a finite number above 0, not {self.max_lr}")
        if not 0 < self.min_lr <= self.max_lr:
            raise CallerError(f"--min-lr must be above 0 and at most --lr ({self.max_lr:g}), not {self.min_lr:g}")
        if not 0 <= self.dropout < 1:
            raise CallerError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.precision not in PRECISIONS:
            raise CallerError(f"--precision must be {' or '.join(PRECISIONS)}, not {self.precision}")
        find_recipe(self.recipe)

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
    preset: str,
    precision: str,
    **others: Any,  # noqa: ANN401 (fields of TrainOptions)
) -> TrainOptions:
    """Return the options of a run. A flag overrides the value of the resumed run, which overrides the recipe's default.

    Args:
        flags: What the user asked for.
        resumed: The sidecar of the checkpoint to resume; None for a new model or fine-tuning.
        preset: The model's preset, which sets the batch size of the classic recipe.
        precision: The default precision on this machine.
        **others: The remaining fields of `TrainOptions`.

    Raises:
        CallerError: A flag is out of range.
        InvalidModelFile: The sidecar has a value that is out of range.
    """

    def choose(name: str, default: Any, allowed: Container[Any]) -> Any:  # noqa: ANN401 (int or str)
        flag = getattr(flags, name)
        if flag is not None or resumed is None:
            return default if flag is None else flag
        return resumed.training_value(name, default, allowed)

    recipe = choose("recipe", CLASSIC, RECIPES)
    defaults = find_recipe(recipe)
    batch_size = defaults.batch_size or default_batch_size(preset)
    max_lr = defaults.max_lr if flags.max_lr is None else flags.max_lr
    return TrainOptions(
        recipe=recipe,
        batch_size=choose("batch_size", batch_size, LIMITS["batch_size"]),
        seed=choose("seed", DEFAULT_SEED, LIMITS["seed"]),
        max_lr=max_lr,
        min_lr=min(defaults.min_lr, max_lr) if flags.min_lr is None else flags.min_lr,
        dropout=defaults.dropout,
        precision=choose("precision", precision, PRECISIONS),
        **others,
    )
