"""What a training run is asked to do, and where its files go. No I/O."""

import math
from dataclasses import dataclass
from pathlib import Path

from randygpt.checkpoint.header import MAX_COUNT
from randygpt.errors import CallerError
from randygpt.training.recipe import CLASSIC, RECIPES

PRECISIONS = ("float32", "bf16")
DEFAULT_SEED = 1337
LIMITS = {"iterations": range(1, MAX_COUNT + 1), "batch_size": range(1, 1 << 24), "seed": range(1 << 31)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What a run is asked to do; a value out of range raises CallerError."""

    iterations: int  # the target, counted from the first iteration of the model's life
    recipe: str = CLASSIC
    batch_size: int = 64  # windows in a step, over all processes
    accumulate: int = 1  # parts that a process does its share of a step in, to save memory
    seed: int = DEFAULT_SEED
    max_lr: float = RECIPES[CLASSIC].max_lr
    min_lr: float = RECIPES[CLASSIC].min_lr
    dropout: float = RECIPES[CLASSIC].dropout
    device: str = "cpu"
    precision: str = "float32"  # of the layers' work in training steps: float32 or bf16
    prefix: Path = Path("checkpoint")

    def __post_init__(self) -> None:
        for name, words in (("iterations", "--iters"), ("batch_size", "--batch"), ("seed", "--seed")):
            allowed = LIMITS[name]
            if getattr(self, name) not in allowed:
                raise CallerError(f"{words} is from {allowed.start} to {allowed.stop - 1}, not {getattr(self, name)}")
        if not 1 <= self.accumulate <= self.batch_size:
            raise CallerError(f"a batch of {self.batch_size} is done in 1 to {self.batch_size} parts (--accumulate)")
        if not 0 < self.min_lr <= self.max_lr < math.inf:
            raise CallerError("learning rates are over 0, and the lowest is at most the peak (--lr, --min-lr)")
        if not 0 <= self.dropout < 1:
            raise CallerError(f"dropout is from 0 to under 1, not {self.dropout}")
        if self.precision not in PRECISIONS:
            raise CallerError(f"precision is {' or '.join(PRECISIONS)}, not {self.precision}")
        if self.recipe not in RECIPES:
            raise CallerError(f"a recipe is {' or '.join(RECIPES)}, not {self.recipe}")

    @property
    def newest(self) -> Path:
        """Where the newest state goes."""
        return self.prefix.with_name(f"{self.prefix.name}.bin")

    @property
    def best(self) -> Path:
        """Where the best state goes."""
        return self.prefix.with_name(f"{self.prefix.name}_best.bin")

    @property
    def metrics(self) -> Path:
        """Where the metrics go."""
        return self.prefix.with_name(f"{self.prefix.name}.metrics.jsonl")
