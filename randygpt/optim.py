"""How fast to learn: the schedule, the plateau rule, and AdamW over one flat vector (randyGPT train.rs). No I/O."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPS = 1e-8
WEIGHT_DECAY = 0.1
DECAY_START = 0.6  # of the iterations at the full rate, the rest on a cosine

PLATEAU_PATIENCE = 30  # evaluations without a new best
PLATEAU_FACTOR = 0.5
PLATEAU_CUTS = 3  # then the run stops


def learning_rate(iteration: int, *, iterations: int, peak: float, lowest: float) -> float:
    """Constant, then a cosine from `peak` to `lowest` over the last 40 % of the iterations."""
    start = int(iterations * DECAY_START)
    if iteration < start:
        return peak
    progress = min(1.0, (iteration - start) / max(1, iterations - start))
    return lowest + 0.5 * (peak - lowest) * (1 + math.cos(math.pi * progress))


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


class FlatAdamW:
    """AdamW over one vector (P,), with a gradient of the same shape that is clamped element by element."""

    def __init__(self, flat: Tensor, gradient: Tensor) -> None:
        self._parameter = nn.Parameter(flat)
        self._parameter.grad = gradient
        self._gradient = gradient
        fused = flat.device.type in {"cpu", "cuda"}
        self._adamw = torch.optim.AdamW(
            [self._parameter], lr=0.0, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=fused
        )
        self.restore(0, (torch.zeros_like(flat), torch.zeros_like(flat)))

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """First and second moment, (P,) each; live, not copies."""
        state = self._adamw.state[self._parameter]
        return state["exp_avg"], state["exp_avg_sq"]

    def restore(self, steps: int, moments: tuple[Tensor, Tensor]) -> None:
        """Go on from `steps` steps with these moments (P,)."""
        self._adamw.state[self._parameter] = {
            "step": torch.tensor(float(steps), device=self._parameter.device),
            "exp_avg": moments[0],
            "exp_avg_sq": moments[1],
        }

    def step(self, rate: float) -> None:
        """One step on the gradient gathered since the last, which is then zero again."""
        self._gradient.clamp_(-1.0, 1.0)
        self._adamw.param_groups[0]["lr"] = rate
        self._adamw.step()
        self._gradient.zero_()
