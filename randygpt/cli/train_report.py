"""What `randygpt train` shows: the run at its start, its progress, what it reached, and the next commands."""

import contextlib
import math
import shlex
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from randygpt.cli import systemd
from randygpt.cli.output import format_duration, format_elapsed, print_stderr, progress_console
from randygpt.errors import InvalidModelFile
from randygpt.terminal import escape_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

    from randygpt.training.checkpointing import Step
    from randygpt.training.options import TrainOptions
    from randygpt.training.text import Text
    from randygpt.training.trainer import Trainer

_WARM_UP = 2  # iterations that are slower than the others
_TIMED = 5  # iterations measured for the estimate
_LONG_MS = 5_000.0  # after this time, one iteration besides the first is enough for the estimate
_SMOOTHED = 20  # iterations whose mean training loss is shown
_STALE = 5  # evaluations without a new best until a note says so
_KINDS = {"char": "characters", "bpe": "BPE tokens"}


def describe_run(trainer: "Trainer", source: str, *, start: str = "") -> str:
    """Return the lines that say what is trained on what, and where the files go.

    Args:
        trainer: The run.
        source: Where the text is from.
        start: The model that the run starts from; empty for none.
    """
    options, config = trainer.options, trainer.model.config
    train, validation = trainer.text_sizes
    preset = "" if config.preset == "custom" else f"preset {config.preset}, "
    lines = {
        "text": source,
        "tokens": f"{train:,} for training, {validation:,} for validation; {config.vocab_size:,} different "
        f"{_KINDS[trainer.tokenizer.kind]}",
        "model": f"{preset}{config.parameter_count:,} parameters: {config.n_layer} layers, {config.n_head} heads, "
        f"width {config.n_embd}",
        "from": start,
        "run": f"{options.recipe} recipe, {options.iterations:,} iterations of {options.batch_size} x "
        f"{config.block_size} tokens, {options.device}, {options.precision}",
        "files": f"{options.latest}, {options.best.name} and {options.metrics.name}",
    }
    return "\n".join(f"{label:<8}{value}" for label, value in lines.items() if value)


def loading(*, shown: bool) -> contextlib.AbstractContextManager[object]:
    """Show on a terminal that PyTorch is being imported, which takes seconds."""
    if not shown or not sys.stderr.isatty():
        return contextlib.nullcontext()
    return progress_console().status("loading PyTorch")


@contextlib.contextmanager
def reading(text: "Text", *, shown: bool) -> Iterator[Callable[[str], None]]:
    """Show on a terminal how far a text has been read; yields the function that names the current stage."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress_console(), transient=True) as progress:
        task = progress.add_task("", total=None)

        def update(done: int) -> None:
            # After the last block the bar pulses: what follows, such as computing merges, has no measure.
            progress.tasks[0].total = None if done >= text.size else text.size
            progress.update(task, completed=done)

        text.on_read = update
        try:
            yield lambda stage: progress.update(task, description=escape_line(stage))
        finally:
            text.on_read = lambda _: None


class Report:
    """Progress of a run, reported after each iteration."""

    def __init__(self, trainer: "Trainer", *, shown: bool) -> None:
        self._trainer = trainer
        self._shown = shown
        self._bar: Progress | None = None
        self._started, self._notified = time.monotonic(), -math.inf
        self._last: Step | None = None
        self._count = 0  # iterations of this run
        self._losses: deque[float] = deque(maxlen=_SMOOTHED)
        self._times: list[float] = []  # of the first iterations, ms
        self._estimated = False
        self._validation = "not measured yet"

    @contextlib.contextmanager
    def progress(self) -> Iterator[None]:
        """Show a progress bar on a terminal, and nothing elsewhere."""
        if not self._shown or not sys.stderr.isatty():
            yield
            return
        with _progress() as self._bar:
            self._bar.add_task("", total=self._trainer.options.iterations, completed=self._trainer.next_iteration)
            yield
        self._bar = None

    def add(self, step: "Step") -> None:
        """Report an iteration, on stderr and to the service manager."""
        self._last, self._count = step, self._count + 1
        self._losses.append(step.loss)
        self._notify(step)
        if not self._shown:
            return
        if not self._estimated:
            self._estimate(step)
        if step.val_loss is not None:
            self._show_evaluation(step)
        if self._bar:
            task = self._bar.tasks[0]
            speed = "" if task.speed is None else f", {task.speed * self._step_tokens:,.0f} tok/s"
            losses = f"training loss {self._loss:.4f}, validation {self._validation}"
            self._bar.update(task.id, completed=step.iteration + 1, description=losses + speed)

    @property
    def _loss(self) -> float:
        """Mean training loss of the last iterations."""
        return statistics.fmean(self._losses)

    @property
    def _step_tokens(self) -> int:
        return self._trainer.options.batch_size * self._trainer.model.config.block_size

    def _notify(self, step: "Step") -> None:
        """Report the progress to the service manager at most once per second."""
        if time.monotonic() - self._notified > 1:
            self._notified = time.monotonic()
            status = f"iteration {step.iteration + 1} of {self._trainer.options.iterations}, loss {step.loss:.4f}"
            systemd.notify(status=status, ready=True, alive=True)

    def _estimate(self, step: "Step") -> None:
        """Once the speed is known, say how long the run will take."""
        self._times.append(step.ms)
        measured = self._times[_WARM_UP:] or self._times[1:]
        left = self._trainer.options.iterations - step.iteration - 1
        is_known = len(measured) >= _TIMED or (measured and sum(self._times) > _LONG_MS)
        if not is_known or not left:
            return
        self._estimated = True
        ms = statistics.fmean(measured)
        print_stderr(f"{'time':<8}{format_duration(left * ms / 1e3)} left, {ms:,.0f} ms per iteration")

    def _show_evaluation(self, step: "Step") -> None:
        assert step.val_loss is not None and step.bits_per_byte is not None  # noqa: S101, PT018
        validation = f"{step.val_loss:.4f}  {step.bits_per_byte:.3f} bits per byte"
        self._validation = validation.replace("  ", ", ")
        if self._bar:
            done = f"{step.iteration + 1:,}/{self._trainer.options.iterations:,}"
            best = "" if step.waited else "  best"
            print_stderr(f"{done:>13}  training {self._loss:.4f}  validation {validation}{best}")
        if step.waited == _STALE:
            best_iteration = self._trainer.best_iteration
            where = "" if best_iteration is None else f"; best at iteration {best_iteration + 1:,}"
            print_stderr(f"validation loss has not improved for {step.waited} evaluations{where}")

    def result(self) -> dict[str, object]:
        """Return the result of the run for `--json`."""
        trainer, last = self._trainer, self._last
        best = trainer.best_loss if math.isfinite(trainer.best_loss) else None
        return {
            "iteration": trainer.next_iteration - 1,
            "train_loss": last and last.loss,
            "val_loss": last and last.val_loss,
            "best_iteration": trainer.best_iteration,
            "best_val_loss": best,
            "best_bits_per_byte": None if best is None else trainer.bits_per_byte(best),
            "checkpoint": str(trainer.options.latest),
            "best": str(trainer.options.best) if trainer.saved_best else None,
        }

    def summary(self, *, finished: bool) -> str:
        """Return what the run reached, and what the two checkpoints hold."""
        trainer, options = self._trainer, self._trainer.options
        seconds = time.monotonic() - self._started
        speed = f"{self._count * self._step_tokens / max(seconds, 1e-3):,.0f} tokens per second"
        end = f"{trainer.next_iteration:,} of {options.iterations:,}"
        reason = "" if not finished or trainer.next_iteration == options.iterations else ": the loss no longer improves"
        lines = [
            f"{'finished' if finished else 'stopped'} at iteration {end}{reason} ({format_elapsed(seconds)}, {speed})"
        ]
        if trainer.saved_best:
            iteration, loss = trainer.saved_best
            where = "" if iteration is None else f"iteration {iteration + 1:,}, "
            lines.append(f"best    {where}validation loss {loss:.4f}, {trainer.bits_per_byte(loss):.3f} bits per byte")
        validation = "" if trainer.saved_best else ", not evaluated yet"
        if self._last and self._last.val_loss is not None:
            validation = f", validation loss {self._last.val_loss:.4f}"
        lines.append(f"newest  iteration {trainer.next_iteration:,}, training loss {self._loss:.4f}{validation}")
        best = f"{options.best} (best) and " if trainer.saved_best else ""
        older = f"; {options.best} is of an earlier run" if not trainer.saved_best and options.best.is_file() else ""
        lines.append(f"saved   {best}{options.latest} (newest){older}")
        return "\n".join(lines)


def next_commands(trainer: "Trainer", text: Path | None, *, finished: bool) -> str:
    """Return the commands that a user would type next: after an interrupted run, the one that continues it."""
    options = trainer.options
    resume = ["randygpt", "train", *([str(text)] if text else []), "--resume"]
    if options.prefix != Path("checkpoint"):
        resume += ["--checkpoint", str(options.prefix)]
    if not finished:
        return f"{'resume':<8}{shlex.join(resume)}"
    model = str(options.best if trainer.saved_best else options.latest)
    name = ["--name", "mymodel"] if options.prefix.name == "checkpoint" else []  # it would be that of the folder
    commands = {
        "sample": ["randygpt", "generate", "The", "--model", model],
        "share": ["randygpt", "publish", model, *name],
        "longer": [*resume, "--iters", str(2 * options.iterations)],
    }
    return "\n".join(f"{label:<8}{shlex.join(words)}" for label, words in commands.items())


def describe_files(options: "TrainOptions") -> str:
    """Return which checkpoints of a run that was not saved are on disk."""
    from randygpt.checkpoint.sidecar import inspect_checkpoint

    found = []
    for path in (options.latest, options.best):
        with contextlib.suppress(InvalidModelFile, OSError):
            found.append(f"{path} (iteration {inspect_checkpoint(path).header.iteration + 1:,})")
    return f"not saved; on disk: {' and '.join(found) or 'no checkpoint'}"


def _progress() -> "Progress":
    """Return a progress bar of two lines, which fits 80 columns."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class TwoLines(Progress):
        def get_renderables(self) -> "Iterator[RenderableType]":
            yield from super().get_renderables()
            yield Text("".join(task.description for task in self.tasks), no_wrap=True, overflow="ellipsis")

    elapsed, left = (TextColumn(word) for word in ("elapsed,", "left"))
    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        elapsed,
        TimeRemainingColumn(),
        left,
    )
    return TwoLines(*columns, console=progress_console(), expand=True, transient=True)
