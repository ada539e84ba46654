"""State of a training run: everything that a resume restores, apart from the options. No I/O."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.rgpt import Array, Checkpoint
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT, gradient_views
from randygpt.model.tokenizer import Tokenizer
from randygpt.training.optim import Optimizer, Plateau
from randygpt.training.options import TrainOptions
from randygpt.training.recipe import RECIPES


@dataclass(slots=True)
class RunState:
    """State of a training run, on its device; to and from checkpoints and sidecars."""

    model: GPT
    optimizer: Optimizer
    tokenizer: Tokenizer
    plateau: Plateau
    next_iteration: int = 0
    steps: int = 0
    tokens: int = 0  # trained on, over the model's whole life
    train_loss: float | None = None
    val_loss: float | None = None  # of the last evaluation
    best_iteration: int | None = None  # None: not known

    @classmethod
    def start(cls, options: TrainOptions, config: ModelConfig, weights: Tensor, tokenizer: Tokenizer) -> Self:
        """Return the state of a run that has not started, from weights (P,)."""
        flat = weights.to(options.device)
        model = GPT(config, flat, dropout=options.dropout)
        gradient = torch.zeros_like(flat)
        gradient_views(model, gradient)
        return cls(model, RECIPES[options.recipe].optimizer(config, flat, gradient), tokenizer, Plateau())

    def restore(self, loaded: Checkpoint, sidecar: Sidecar | None) -> None:
        """Restore the state that a checkpoint and its sidecar recorded."""
        header = loaded.header
        self.plateau.best, self.next_iteration = header.best_loss, header.iteration + 1
        if loaded.optimizer_state:
            self.steps = header.step
            device = self.model.flat.device
            exp_avg, exp_avg_sq = (torch.from_numpy(part).to(device) for part in loaded.optimizer_state)
            self.optimizer.restore(self.steps, (exp_avg, exp_avg_sq))
        if sidecar and sidecar.iteration == header.iteration:
            self.train_loss, self.val_loss = sidecar.losses.get("train"), sidecar.losses.get("val")
            self.tokens = sidecar.training_value("tokens_seen", 0)
            self.plateau.waited = sidecar.training_value("plateau_waited", 0)
            self.plateau.cuts = sidecar.training_value("plateau_cuts", 0)
            if "best_iteration" in sidecar.training:
                self.best_iteration = sidecar.training_value("best_iteration", 0)

    def checkpoint(self) -> Checkpoint:
        """Return a copy of weights and optimizer state."""
        header = CheckpointHeader(
            magic="RGPT0003",
            vocab_size=self.model.config.vocab_size,
            iteration=self.next_iteration - 1,
            step=self.steps,
            best_loss=self.plateau.best,
        )
        exp_avg, exp_avg_sq = self.optimizer.state
        return Checkpoint(
            header=header,
            config=self.model.config,
            weights=_array(self.model.flat),
            optimizer_state=(_array(exp_avg), _array(exp_avg_sq)),
        )

    def sidecar(self, *, name: str, base: Origin | None, run: dict[str, object]) -> Sidecar:
        """Return the sidecar of the checkpoint, with the values `run` that describe the run."""
        best = None if math.isinf(self.plateau.best) else self.plateau.best
        counters = {
            "tokens_seen": self.tokens,
            "plateau_waited": self.plateau.waited,
            "plateau_cuts": self.plateau.cuts,
        }
        best_iteration = {} if self.best_iteration is None else {"best_iteration": self.best_iteration}
        return Sidecar(
            config=self.model.config,
            tokenizer=self.tokenizer,
            name=name,
            iteration=self.next_iteration - 1,
            losses={"train": self.train_loss, "val": self.val_loss, "best_val": best},
            training=run | counters | best_iteration,
            base=base,
        )


def _array(tensor: Tensor) -> Array:
    """Return a copy on the CPU."""
    return tensor.detach().to("cpu", copy=True).numpy()
