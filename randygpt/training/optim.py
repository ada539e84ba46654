"""How fast to learn: schedules, the plateau rule, and optimisers over one flat vector. No I/O."""

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
DECAY_START = 0.6  # of the iterations at the full rate, the rest on a cosine
WARMUP = 10  # iterations
MUON_MOMENTUM = 0.9
TABLE_BETAS = (0.9, 0.95)
TABLE_LR_FACTOR = 1 / 3  # of the matrices' rate

PLATEAU_PATIENCE = 30  # evaluations without a new best
PLATEAU_FACTOR = 0.5
PLATEAU_CUTS = 3  # then the run stops


class Optimizer(ABC):
    """What steps on a vector (P,) of weights, of which the model's parameters are views."""

    def __init__(self, flat: Tensor, gradient: Tensor) -> None:
        self.gradient = gradient  # (P,), gathered since the last step
        self.restore(0, (torch.zeros_like(flat), torch.zeros_like(flat)))

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """First and second moment of the gradient, (P,) each; live, not copies."""
        return self._state

    def restore(self, steps: int, state: tuple[Tensor, Tensor]) -> None:
        """Go on from `steps` steps with this state (P,)."""
        self._state = state
        self._restore(steps, state)

    @abstractmethod
    def _restore(self, steps: int, state: tuple[Tensor, Tensor]) -> None: ...

    @abstractmethod
    def step(self, lr: float) -> None:
        """One step on the gradient gathered since the last, which is then zero again."""


def constant_then_cosine(iteration: int, *, iterations: int, max_lr: float, min_lr: float) -> float:
    """Constant, then a cosine from `max_lr` to `min_lr` over the last 40 % of the iterations (randyGPT train.rs)."""
    start = int(iterations * DECAY_START)
    if iteration < start:
        return max_lr
    progress = min(1.0, (iteration - start) / max(1, iterations - start))
    return min_lr + 0.5 * (max_lr - min_lr) * (1 + math.cos(math.pi * progress))


def warmup_then_linear(iteration: int, *, iterations: int, max_lr: float, min_lr: float) -> float:
    """Up to `max_lr` in ten iterations, and on a straight line down to `min_lr` at the end."""
    line = min_lr + (max_lr - min_lr) * max(0.0, 1 - iteration / iterations)
    return line * min(1.0, (iteration + 1) / WARMUP)


@dataclass(slots=True)
class Plateau:
    """Halves the rate when validation stops improving, and after three cuts ends the run."""

    best: float = math.inf
    waited: int = 0  # evaluations since the best
    cuts: int = 0

    @property
    def factor(self) -> float:
        """What the scheduled rate is multiplied by."""
        return float(PLATEAU_FACTOR**self.cuts)

    def update(self, loss: float) -> bool:
        """Take note of an evaluation; True if the run should stop."""
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
    """AdamW, with a gradient that is clamped element by element."""

    def __init__(self, flat: Tensor, gradient: Tensor) -> None:
        self._parameter = _parameter(flat, gradient)
        self._adamw = _adamw(self._parameter, betas=BETAS, weight_decay=WEIGHT_DECAY)
        super().__init__(flat, gradient)

    def _restore(self, steps: int, state: tuple[Tensor, Tensor]) -> None:
        _restore(self._adamw, self._parameter, steps, *state)

    def step(self, lr: float) -> None:
        """One step on the gradient gathered since the last, which is then zero again."""
        self.gradient.clamp_(-1.0, 1.0)
        _step(self._adamw, lr)
        self.gradient.zero_()


class FlatMuon(Optimizer):
    """Muon for the matrices of the layers, AdamW for the tables before them.

    Muon's momentum is AdamW's first moment, and the second is kept for the matrices too though nothing here needs it:
    a checkpoint can be gone on with by either.
    """

    def __init__(self, config: ModelConfig, flat: Tensor, gradient: Tensor) -> None:
        self._config = config
        self._border = sum(rows * columns for _, rows, columns in _matrices(config, of_layers=False))
        self._tables = _parameter(flat[: self._border], gradient[: self._border])
        both = zip(self._views(flat), self._views(gradient), strict=True)
        self._weights = [_parameter(weights, part) for weights, part in both]
        self._adamw = _adamw(self._tables, betas=TABLE_BETAS, weight_decay=0.0)
        self._muon = torch.optim.Muon(self._weights, lr=0.0, momentum=MUON_MOMENTUM, weight_decay=0.0)
        super().__init__(flat, gradient)

    def _restore(self, steps: int, state: tuple[Tensor, Tensor]) -> None:
        _restore(self._adamw, self._tables, steps, *(part[: self._border] for part in state))
        for weights, momentum in zip(self._weights, self._views(state[0]), strict=True):
            self._muon.state[weights] = {"momentum_buffer": momentum}

    def step(self, lr: float) -> None:
        """One step on the gradient gathered since the last, which is then zero again; `lr` is the matrices'."""
        behind = self.gradient[self._border :]
        self.state[1][self._border :].mul_(BETAS[1]).addcmul_(behind, behind, value=1 - BETAS[1])
        _step(self._adamw, lr * TABLE_LR_FACTOR)
        _step(self._muon, lr)
        self.gradient.zero_()

    def _views(self, flat: Tensor) -> list[Tensor]:
        """The layers' matrices in a vector (P,)."""
        matrices = _matrices(self._config, of_layers=True)
        return [flat[start : start + rows * columns].view(rows, columns) for start, rows, columns in matrices]


def _matrices(config: ModelConfig, *, of_layers: bool) -> list[tuple[int, int, int]]:
    """(Where it begins, rows, columns) of the layers' matrices in the flat vector, or of the tables before them."""
    found, start = [], 0
    for name, (rows, columns) in tensor_shapes(config).items():
        if name.startswith("layer") == of_layers:
            found.append((start, rows, columns))
        start += rows * columns
    return found


def _parameter(values: Tensor, gradient: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter.grad = gradient
    return parameter


def _adamw(parameter: nn.Parameter, *, betas: tuple[float, float], weight_decay: float) -> torch.optim.Optimizer:
    fused = parameter.device.type in {"cpu", "cuda"}
    return torch.optim.AdamW([parameter], lr=0.0, betas=betas, eps=EPS, weight_decay=weight_decay, fused=fused)


def _restore(adamw: torch.optim.Optimizer, parameter: nn.Parameter, steps: int, first: Tensor, second: Tensor) -> None:
    step = torch.tensor(float(steps), device=parameter.device)
    adamw.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}


def _step(optimizer: torch.optim.Optimizer, lr: float) -> None:
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
