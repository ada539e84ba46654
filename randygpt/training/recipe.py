"""Recipes: how a run learns if the user does not say otherwise. No I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT
from randygpt.training.optim import FlatAdamW, FlatMuon, Optimizer, constant_then_cosine, warmup_then_linear

_TABLE_SIZE = 0.1  # of the fast recipe's first token and position vectors, root mean square
_LONGEST_WAVE = 1000.0  # positions, over 2 pi


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Schedule, optimiser and first weights, with the values that belong to them."""

    max_lr: float
    min_lr: float
    dropout: float
    eval_every: int  # iterations
    batch_size: int | None  # windows; None: the preset's
    schedule: Callable[..., float]  # (iteration, *, iterations, max_lr, min_lr) -> lr
    optimizer: Callable[[ModelConfig, Tensor, Tensor], Optimizer]  # of a shape, weights (P,) and gradient (P,)
    prepare: Callable[[GPT], None]  # new weights, after they were drawn


def _sinusoidal_positions(model: GPT) -> None:
    """Larger token vectors, and positions as waves of many lengths: which token is how far away can be seen at once."""
    length, width = model.wpe.shape
    waves = torch.arange(0, width, 2) / width
    angles = torch.arange(length)[:, None] * _LONGEST_WAVE**-waves
    table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]  # (T, D)
    with torch.no_grad():
        model.wpe.copy_(table * (_TABLE_SIZE * 2**0.5))
        model.wte.mul_(_TABLE_SIZE / model.wte.square().mean().sqrt())


CLASSIC = "classic"
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # randyGPT train.rs
        CLASSIC: Recipe(
            max_lr=1e-4,
            min_lr=1e-5,
            dropout=0.1,
            eval_every=25,
            batch_size=None,
            schedule=constant_then_cosine,
            optimizer=lambda _config, flat, gradient: FlatAdamW(flat, gradient),
            prepare=lambda _model: None,
        ),
        # docs/log.md
        "fast": Recipe(
            max_lr=0.03,
            min_lr=0.0015,
            dropout=0.0,
            eval_every=100,
            batch_size=8,
            schedule=warmup_then_linear,
            optimizer=FlatMuon,
            prepare=_sinusoidal_positions,
        ),
    }
)
