"""RGPT files to and from arrays. Reads and writes files; every write is durable; no torch.

A checkpoint in memory is flat: the weights as one vector (P,) in file order, and each moment as another.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from randygpt.checkpoint.header import HEADER_SIZE, CheckpointHeader, OptimizerLayout
from randygpt.errors import InvalidCheckpoint
from randygpt.model.config import ModelConfig
from randygpt.model.layout import tensor_shapes
from relay_client import durable

Array = npt.NDArray[np.float32]

_NOT_FINITE = "a NaN or infinity in {} ({})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights and, where there are any, the first and second AdamW moments; each (P,), float32, in file order."""

    header: CheckpointHeader
    config: ModelConfig
    weights: Array
    optimizer_state: tuple[Array, Array] | None


def read_weights(path: Path, config: ModelConfig) -> Array:
    """The weights (P,) alone; raises InvalidCheckpoint, naming file and reason, and OSError.

    Header and exact size are checked before anything is allocated, finiteness after.
    """
    return _read(path, config, with_optimizer=False).weights


def read_matrices(path: Path, config: ModelConfig) -> Iterator[Array]:
    """The weights matrix by matrix (out, in), in file order and one in memory at a time; raises as `read_weights`."""
    with _opened(path, config) as (file, _, _):
        for name, shape in tensor_shapes(config).items():
            values = _floats(file, shape[0] * shape[1])
            if not np.isfinite(values).all():
                raise InvalidCheckpoint(_NOT_FINITE.format(name, "weights"))
            yield values.reshape(shape)


def read_checkpoint(path: Path, config: ModelConfig) -> Checkpoint:
    """Everything in a checkpoint; raises InvalidCheckpoint, naming file and reason, and OSError."""
    return _read(path, config, with_optimizer=True)


def write_checkpoint(path: Path, checkpoint: Checkpoint, beside: tuple[Path, bytes] | None = None) -> None:
    """Write RGPT0003, or RGPT0002 where there are no moments, durably, whatever it was read from; raises OSError.

    `beside` is a second file (path, contents) that belongs to it. It waits at `durable.pending_path`, in place of what
    waited there, until the checkpoint is where it should be. After an error or a crash it may wait still, with the new
    checkpoint at `path` or the old one: the header tells which, so it is not removed here.
    """
    header = replace(checkpoint.header, magic="RGPT0003" if checkpoint.optimizer_state else "RGPT0002")
    with durable.atomic_file(path) as file:
        file.write(header.encode())
        for part in (checkpoint.weights, *(checkpoint.optimizer_state or ())):
            file.write(memoryview(part.astype("<f4", copy=False)).cast("B"))
        if beside:  # when nothing of the checkpoint is left to fail
            durable.sync(file)
            durable.write(durable.pending_path(beside[0]), beside[1])
    if beside:
        durable.pending_path(beside[0]).replace(beside[0])
        durable.sync_directory(path.parent)


def check_finite(values: Array, config: ModelConfig, what: str) -> None:
    """Raise InvalidCheckpoint if one of the numbers (P,) is none, naming its array and `what` they are."""
    _check(np.isfinite(values), config, _NOT_FINITE.format("{}", what))


def check_optimizer_state(first: Array, second: Array, config: ModelConfig) -> None:
    """Raise InvalidCheckpoint if AdamW moments (P,) are not numbers, or the second, means of squares, are under 0."""
    check_finite(first, config, "first moment")
    check_finite(second, config, "second moment")
    _check(second >= 0, config, "a second moment under 0 in {}")


def _check(good: npt.NDArray[np.bool_], config: ModelConfig, words: str) -> None:
    if good.all():
        return
    where = int(np.argmin(good))
    for name, (rows, columns) in tensor_shapes(config).items():
        if where < rows * columns:
            raise InvalidCheckpoint(words.format(name))
        where -= rows * columns


@contextlib.contextmanager
def _opened(path: Path, config: ModelConfig) -> Iterator[tuple[BufferedReader, CheckpointHeader, OptimizerLayout]]:
    """A checkpoint whose header and size hold, at its weights; what is wrong with it within is said of the file."""
    with path.open("rb") as file:
        try:
            header = CheckpointHeader.parse(file.read(HEADER_SIZE))
            yield file, header, header.optimizer_layout(config, os.fstat(file.fileno()).st_size)
        except InvalidCheckpoint as error:
            raise InvalidCheckpoint(f"{path}: {error}") from None


def _read(path: Path, config: ModelConfig, *, with_optimizer: bool) -> Checkpoint:
    count, state = config.parameter_count, None
    with _opened(path, config) as (file, header, kind):
        weights = _floats(file, count)
        check_finite(weights, config, "weights")
        if with_optimizer and kind != "none":
            both = _floats(file, 2 * count)
            first, second = (both[:count], both[count:]) if kind == "contiguous" else _untangle(both, config)
            check_optimizer_state(first, second, config)
            state = (first, second)
    return Checkpoint(header=header, config=config, weights=weights, optimizer_state=state)


def _floats(file: BufferedReader, count: int) -> Array:
    data = bytearray(4 * count)
    if file.readinto(data) != len(data):
        raise InvalidCheckpoint("it became shorter while it was read")
    values = np.frombuffer(data, "<f4")
    return values.astype(np.float32, copy=False)


def _untangle(both: Array, config: ModelConfig) -> tuple[Array, Array]:
    """Moments that lie m, v, m, v tensor by tensor, as all of m and all of v."""
    first, second, offset = [], [], 0
    for rows, columns in tensor_shapes(config).values():
        size = rows * columns
        first.append(both[offset : offset + size])
        second.append(both[offset + size : offset + 2 * size])
        offset += 2 * size
    return np.concatenate(first), np.concatenate(second)
