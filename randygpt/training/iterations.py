"""Iterations of a run: training steps, evaluations and their reports. No disk I/O; reads the clock.

On an accelerator, training steps are queued and their losses are read together, so that it never waits for the CPU.
"""

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from randygpt.errors import Diverged
from randygpt.training.checkpointing import Step
from randygpt.training.compute import Compute
from randygpt.training.options import TrainOptions
from randygpt.training.recipe import RECIPES
from randygpt.training.run_state import RunState

READ_EVERY = 10  # iterations between two reads of the losses on an accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unread:
    """An iteration whose loss was not read from the device yet."""

    iteration: int
    lr: float
    tokens: int  # trained on so far
    loss: Tensor  # ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Reports of the iterations since the last reading."""

    steps: tuple[Step, ...]
    is_best: bool = False  # the newest weights have the lowest validation loss so far
    exhausted: bool = False  # the plateau rule ends the run


class Iterations:
    """Iterations of a run, one after the other: call `advance`, and `read` at least where `is_read_due` says so."""

    def __init__(self, options: TrainOptions, state: RunState, compute: Compute) -> None:
        self._options, self._state, self._compute = options, state, compute
        self._recipe = RECIPES[options.recipe]
        self._read_every = 1 if options.device == "cpu" else READ_EVERY
        self._has_read = False
        self._unread: list[_Unread] = []
        self._started = 0.0  # of the first unread iteration

    def bits_per_byte(self, loss: float) -> float:
        """Return a loss in bits per UTF-8 byte of the validation text."""
        return loss / math.log(2) / self._compute.bytes_per_token

    def advance(self) -> None:
        """Run the training step of the next iteration, without waiting for its loss."""
        options, state = self._options, self._state
        if not self._unread:
            self._started = time.perf_counter()
        iteration = state.next_iteration
        lr = self._recipe.schedule(
            iteration, iterations=options.iterations, max_lr=options.max_lr, min_lr=options.min_lr
        )
        lr *= state.plateau.factor
        loss = self._compute.train_step(iteration, lr)
        state.next_iteration, state.steps = iteration + 1, state.steps + 1
        state.tokens += options.batch_size * state.model.config.block_size
        self._unread.append(_Unread(iteration=iteration, lr=lr, tokens=state.tokens, loss=loss))

    @property
    def is_read_due(self) -> bool:
        """True after the same iterations in all processes of a run: each one on a CPU, else the first and some."""
        return not self._has_read or self._state.next_iteration % self._read_every == 0 or self._is_evaluation_due

    @property
    def _is_evaluation_due(self) -> bool:
        done, iterations = self._state.next_iteration, self._options.iterations
        return done % self._recipe.eval_interval(iterations) == 0 or done == iterations

    def read(self) -> Reading:
        """Wait for the losses since the last call, after an evaluation if one is due; the device is read once.

        Raises:
            Diverged: A loss is not finite.
        """
        unread, state = self._unread, self._state
        if not unread:
            return Reading(steps=())
        losses = [each.loss for each in unread]
        if self._is_evaluation_due:
            losses.append(self._compute.evaluate())
        values: list[float] = torch.stack(losses).cpu().tolist()
        ms = (time.perf_counter() - self._started) * 1e3 / len(unread)
        val_loss = values.pop() if len(values) > len(unread) else None
        self._check(values, val_loss)
        self._unread, self._has_read = [], True
        state.train_loss = values[-1]
        waited = state.plateau.waited
        steps = [
            Step(
                iteration=each.iteration,
                loss=loss,
                val_loss=None,
                bits_per_byte=None,
                lr=each.lr,
                ms=ms,
                tokens=each.tokens,
                waited=waited,
            )
            for each, loss in zip(unread, values, strict=True)
        ]
        if val_loss is None:
            return Reading(steps=tuple(steps))
        return self._evaluated(steps, val_loss)

    def _check(self, losses: list[float], val_loss: float | None) -> None:
        for each, loss in zip(self._unread, losses, strict=True):
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} at iteration {each.iteration}: lower the learning rate (--lr)")
        if val_loss is not None and not math.isfinite(val_loss):
            raise Diverged(f"the validation loss is {val_loss}: lower the learning rate (--lr)")

    def _evaluated(self, steps: list[Step], val_loss: float) -> Reading:
        """Return a reading whose last step was evaluated."""
        state = self._state
        is_best = val_loss < state.plateau.best
        exhausted = state.plateau.update(val_loss)
        state.val_loss = val_loss
        if is_best:
            state.best_iteration = steps[-1].iteration
        bits = self.bits_per_byte(val_loss)
        last = replace(steps[-1], val_loss=val_loss, bits_per_byte=bits, waited=state.plateau.waited)
        return Reading(steps=(*steps[:-1], last), is_best=is_best, exhausted=exhausted)
