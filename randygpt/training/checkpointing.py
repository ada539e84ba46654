"""Files of a training run: checkpoints, written on a background thread, and the metrics file. Disk I/O."""

import json
import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from randygpt.checkpoint.rgpt import Checkpoint
from randygpt.checkpoint.save import save_checkpoint
from randygpt.checkpoint.sidecar import Sidecar
from relay_client import durable


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Report of one iteration."""

    iteration: int  # index, from 0
    loss: float  # training loss, nats per token
    val_loss: float | None  # nats per token; None: not measured
    bits_per_byte: float | None  # the validation loss per UTF-8 byte of its text
    lr: float
    ms: float  # milliseconds of the iteration
    tokens: int  # trained on so far, over the model's life
    waited: int = 0  # evaluations since the best one

    def as_line(self) -> str:
        """Return the step as a line of the metrics file."""
        values: dict[str, float] = {"iter": self.iteration, "loss": round(self.loss, 6)}
        if self.val_loss is not None:
            values["val_loss"] = round(self.val_loss, 6)
        if self.bits_per_byte is not None:
            values["val_bits_per_byte"] = round(self.bits_per_byte, 6)
        values |= {"lr": self.lr, "ms_per_iter": round(self.ms, 3), "tokens": self.tokens}
        return json.dumps(values) + "\n"


class CheckpointWriter:
    """Background thread that writes checkpoints; a queued checkpoint is superseded by a newer one for its path.

    A context manager: exit waits for all writes, or after KeyboardInterrupt for the current one.
    """

    def __init__(self) -> None:
        self._pending: dict[Path, tuple[Checkpoint, Sidecar]] = {}
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writes: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._executor.shutdown(cancel_futures=isinstance(error, KeyboardInterrupt))
        except KeyboardInterrupt:  # a second interrupt during the wait
            self._executor.shutdown(wait=False, cancel_futures=True)
            raise
        if error is None:
            self._raise_failures()

    def submit(self, path: Path, checkpoint: Checkpoint, sidecar: Sidecar) -> None:
        """Queue a checkpoint; raise OSError if an earlier write failed."""
        self._raise_failures()
        with self._lock:
            self._pending[path] = (checkpoint, sidecar)
        self._writes.append(self._executor.submit(self._write, path))

    def _write(self, path: Path) -> None:
        with self._lock:
            newest = self._pending.pop(path, None)
        if newest:
            save_checkpoint(path, *newest)

    def _raise_failures(self) -> None:
        done = [write for write in self._writes if write.done()]
        self._writes = [write for write in self._writes if not write.done()]
        for write in done:
            write.result()


class Metrics:
    """Metrics file with one JSON line per iteration. A context manager that flushes on success.

    The first flush drops lines from `first_iteration` on, which an interrupted run left; the file is not touched before
    that. Without a path nothing is written. Raises OSError.
    """

    def __init__(self, path: Path | None, first_iteration: int) -> None:
        self._path = path
        self._first = first_iteration
        self._lines: list[str] = []
        self._started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()

    def add(self, step: Step) -> None:
        """Add a line for the next flush."""
        self._lines.append(step.as_line())

    def flush(self) -> None:
        """Append the added lines to the file."""
        if self._path:
            if not self._started:
                durable.write(self._path, self._kept(self._path))
            self._started = True
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.writelines(self._lines)
            except OSError as error:
                error.filename = str(self._path)  # ENOSPC does not name the file
                raise
        self._lines.clear()

    def _kept(self, path: Path) -> bytes:
        if not self._first or not path.is_file():
            return b""
        with path.open("rb") as file:
            return b"".join(line.rstrip(b"\n") + b"\n" for line in file if _iteration_of(line) < self._first)


def _iteration_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["iter"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf  # truncated by a crash
