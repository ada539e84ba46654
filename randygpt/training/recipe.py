"""Training recipes: optimizer, schedule and initial weights, with their default hyperparameters. No I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from randygpt.errors import CallerError
from randygpt.model.config import DEFAULT_PRESET, ModelConfig
from randygpt.model.gpt import GPT
from randygpt.training.optim import FlatAdamW, FlatMuon, Optimizer, constant_then_cosine, warmup_then_linear

_EMBEDDING_RMS = 0.1  # of the fast recipe's initial token and position embeddings
_MIN_EVALUATIONS = 8  # in a run
_MAX_WAVELENGTH = 1000.0  # positions, over 2 pi


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Optimizer, schedule and initialization, with the hyperparameters tuned for them."""

    max_lr: float
    fork_lr: float  # max_lr of a run that starts from a trained model
    min_lr: float
    dropout: float
    eval_every: int  # iterations; a short run evaluates more often, see eval_interval
    batch_size: int | None  # sequences; None: the preset's default
    preset: str  # default
    schedule: Callable[..., float]  # (iteration, *, iterations, max_lr, min_lr) -> lr
    optimizer: Callable[[ModelConfig, Tensor, Tensor], Optimizer]  # (config, weights (P,), gradient (P,))
    prepare: Callable[[GPT], None]  # adjusts the weights of a new model, after they were drawn

    def eval_interval(self, iterations: int) -> int:
        """Return the number of iterations between two evaluations, so that a run has at least eight."""
        return max(1, min(self.eval_every, iterations // _MIN_EVALUATIONS))


def _init_sinusoidal(model: GPT) -> None:
    """Scale up the token embeddings and set sinusoidal position embeddings, so that relative positions are linear."""
    length, width = model.wpe.shape
    exponents = torch.arange(0, width, 2) / width
    angles = torch.arange(length)[:, None] * _MAX_WAVELENGTH**-exponents  # (T, D / 2)
    table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]  # (T, D)
    with torch.no_grad():
        model.wpe.copy_(table * (_EMBEDDING_RMS * 2**0.5))
        model.wte.mul_(_EMBEDDING_RMS / model.wte.square().mean().sqrt())


CLASSIC, FAST = "classic", "fast"
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # randyGPT train.rs
        CLASSIC: Recipe(
            max_lr=1e-4,
            fork_lr=1e-4,
            min_lr=1e-5,
            dropout=0.1,
            eval_every=25,
            batch_size=None,
            preset=DEFAULT_PRESET,
            schedule=constant_then_cosine,
            optimizer=lambda _config, flat, gradient: FlatAdamW(flat, gradient),
            prepare=lambda _model: None,
        ),
        # docs/log.md
        FAST: Recipe(
            max_lr=0.03,
            fork_lr=0.008,
            min_lr=0.0015,
            dropout=0.0,
            eval_every=100,
            batch_size=8,
            preset="xs",
            schedule=warmup_then_linear,
            optimizer=FlatMuon,
            prepare=_init_sinusoidal,
        ),
    }
)


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name; raise CallerError for an unknown one."""
    if name not in RECIPES:
        raise CallerError(f"--recipe must be {' or '.join(RECIPES)}, not {name}")
    return RECIPES[name]
