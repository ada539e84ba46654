"""Learning-rate schedules, the plateau rule, and optimizers over one flat vector. No I/O."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from randygpt.model.config import ModelConfig
from randygpt.model.layout import tensor_shapes

BETAS = (0.9, 0.999)
EPS = 1e-8
WEIGHT_DECAY = 0.1
DECAY_START = 0.6  # share of the iterations at max_lr, before the cosine
WARMUP = 10  # iterations
MUON_MOMENTUM = 0.9
EMBEDDING_BETAS = (0.9, 0.95)
EMBEDDING_LR_FACTOR = 1 / 3  # of the layers' learning rate

PLATEAU_PATIENCE = 30  # evaluations without a new best
PLATEAU_FACTOR = 0.5
PLATEAU_CUTS = 3  # reductions before the run stops


class Optimizer(ABC):
    """Optimizer over a vector (P,) of weights, of which the model's parameters are views."""

    def __init__(self, flat: Tensor, gradient: Tensor) -> None:
        self.gradient = gradient  # (P,), accumulated since the last step
        self.restore(0, (torch.zeros_like(flat), torch.zeros_like(flat)))

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """AdamW's m and v (`exp_avg`, `exp_avg_sq`), (P,) each; live, not copies."""
        return self._state

    def restore(self, steps: int, state: tuple[Tensor, Tensor]) -> None:
        """Continue after `steps` steps with m and v, (P,) each."""
        self._state = state
        self._restore(steps, state)

    @abstractmethod
    def _restore(self, steps: int, state: tuple[Tensor, Tensor]) -> None: ...

    @abstractmethod
    def step(self, lr: float) -> None:
        """Update the weights with the accumulated gradient, then zero it."""


def constant_then_cosine(iteration: int, *, iterations: int, max_lr: float, min_lr: float) -> float:
    """Return `max_lr`, decaying to `min_lr` on a cosine over the last 40 % of the iterations (randyGPT train.rs)."""
    start = int(iterations * DECAY_START)
    if iteration < start:
        return max_lr
    progress = min(1.0, (iteration - start) / max(1, iterations - start))
    return min_lr + 0.5 * (max_lr - min_lr) * (1 + math.cos(math.pi * progress))


def warmup_then_linear(iteration: int, *, iterations: int, max_lr: float, min_lr: float) -> float:
    """Return the learning rate of ten warm-up iterations to `max_lr`, then a linear decay to `min_lr`."""
    linear = min_lr + (max_lr - min_lr) * max(0.0, 1 - iteration / iterations)
    return linear * min(1.0, (iteration + 1) / WARMUP)


@dataclass(slots=True)
class Plateau:
    """Plateau rule: halve the learning rate when validation stops improving, three times; then end the run."""

    best: float = math.inf
    waited: int = 0  # evaluations since the best one
    cuts: int = 0

    @property
    def factor(self) -> float:
        """Factor for the scheduled learning rate."""
        return float(PLATEAU_FACTOR**self.cuts)

    def update(self, loss: float) -> bool:
        """Record a validation loss and return True if the run should stop."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return False
        self.waited += 1
        if self.waited < PLATEAU_PATIENCE:
            return False
        if self.cuts == PLATEAU_CUTS:
            return True
        self.cuts, self.waited = self.cuts + 1, 0
        return False


class FlatAdamW(Optimizer):
    """AdamW with element-wise gradient clipping to [-1, 1]."""

    def __init__(self, flat: Tensor, gradient: Tensor) -> None:
        self._parameter = _parameter(flat, gradient)
        self._adamw = _adamw(self._parameter, betas=BETAS, weight_decay=WEIGHT_DECAY)
        super().__init__(flat, gradient)

    def _restore(self, steps: int, state: tuple[Tensor, Tensor]) -> None:
        _restore(self._adamw, self._parameter, steps, *state)

    def step(self, lr: float) -> None:
        """Update the weights with the accumulated gradient, then zero it."""
        self.gradient.clamp_(-1.0, 1.0)
        _step(self._adamw, lr)
        self.gradient.zero_()


class FlatMuon(Optimizer):
    """Muon for the layers' matrices, AdamW for embeddings and output head.

    Muon's momentum takes the place of AdamW's m. AdamW's v is maintained for the matrices too, though Muon does not use
    it, so that either optimizer can resume the checkpoint (decision 0017).
    """

    def __init__(self, config: ModelConfig, flat: Tensor, gradient: Tensor) -> None:
        self._config = config
        self._border = sum(rows * columns for _, rows, columns in _matrices(config, in_layers=False))
        self._embeddings = _parameter(flat[: self._border], gradient[: self._border])
        both = zip(self._views(flat), self._views(gradient), strict=True)
        self._weights = [_parameter(weights, part) for weights, part in both]
        self._adamw = _adamw(self._embeddings, betas=EMBEDDING_BETAS, weight_decay=0.0)
        self._muon = torch.optim.Muon(self._weights, lr=0.0, momentum=MUON_MOMENTUM, weight_decay=0.0)
        super().__init__(flat, gradient)

    def _restore(self, steps: int, state: tuple[Tensor, Tensor]) -> None:
        _restore(self._adamw, self._embeddings, steps, *(part[: self._border] for part in state))
        for weights, momentum in zip(self._weights, self._views(state[0]), strict=True):
            self._muon.state[weights] = {"momentum_buffer": momentum}

    def step(self, lr: float) -> None:
        """Update the weights with the accumulated gradient, then zero it; `lr` applies to the layers."""
        layers = self.gradient[self._border :]
        self.state[1][self._border :].mul_(BETAS[1]).addcmul_(layers, layers, value=1 - BETAS[1])
        _step(self._adamw, lr * EMBEDDING_LR_FACTOR)
        _step(self._muon, lr)
        self.gradient.zero_()

    def _views(self, flat: Tensor) -> list[Tensor]:
        """Return views (out, in) of the layers' matrices in a vector (P,)."""
        matrices = _matrices(self._config, in_layers=True)
        return [flat[start : start + rows * columns].view(rows, columns) for start, rows, columns in matrices]


def _matrices(config: ModelConfig, *, in_layers: bool) -> list[tuple[int, int, int]]:
    """Return (offset, rows, columns) of the layers' matrices in the flat vector, or of the matrices before them."""
    found, start = [], 0
    for name, (rows, columns) in tensor_shapes(config).items():
        if name.startswith("layer") == in_layers:
            found.append((start, rows, columns))
        start += rows * columns
    return found


def _parameter(values: Tensor, gradient: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter.grad = gradient
    return parameter


def _adamw(parameter: nn.Parameter, *, betas: tuple[float, float], weight_decay: float) -> torch.optim.Optimizer:
    fused = _is_fused(parameter)
    return torch.optim.AdamW([parameter], lr=0.0, betas=betas, eps=EPS, weight_decay=weight_decay, fused=fused)


def _is_fused(parameter: nn.Parameter) -> bool:
    """Return whether AdamW runs as one kernel; on Apple's GPUs it was never tried."""
    return parameter.device.type != "mps"


def _restore(adamw: torch.optim.Optimizer, parameter: nn.Parameter, steps: int, first: Tensor, second: Tensor) -> None:
    # Without that kernel, torch reads the number of steps in every step, which must not wait for another device.
    step = torch.tensor(float(steps), device=parameter.device if _is_fused(parameter) else "cpu")
    adamw.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}


def _step(optimizer: torch.optim.Optimizer, lr: float) -> None:
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
