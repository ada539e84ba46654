"""RGPT files to and from arrays. Disk I/O; writes are durable; no torch.

A checkpoint in memory is flat: the weights are one vector (P,) in file order, and so is each AdamW moment
(decision 0011).
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

_NOT_FINITE = "NaN or infinity in {} ({})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights and optimizer state of a model; arrays that do not fit the shape raise InvalidCheckpoint."""

    header: CheckpointHeader
    config: ModelConfig
    weights: Array  # (P,), in file order
    optimizer_state: tuple[Array, Array] | None  # AdamW's m and v, (P,) each, in file order

    def __post_init__(self) -> None:
        if self.header.vocab_size != self.config.vocab_size:
            raise InvalidCheckpoint(
                f"vocab {self.header.vocab_size} in the header, {self.config.vocab_size} in the configuration"
            )
        for array in (self.weights, *(self.optimizer_state or ())):
            if array.dtype != np.float32 or array.shape != (self.config.parameter_count,):
                expected = f"float32 ({self.config.parameter_count},)"
                raise InvalidCheckpoint(f"an array is {array.dtype} {array.shape}, not {expected} ({self.config.name})")


def read_weights(path: Path, config: ModelConfig) -> Array:
    """Return the weights (P,) of a checkpoint.

    Raises:
        InvalidCheckpoint: The file is wrong. Header and exact size are checked before anything is allocated.
        OSError: The file cannot be read.
    """
    return _read(path, config, with_optimizer=False).weights


def read_matrices(path: Path, config: ModelConfig) -> Iterator[Array]:
    """Yield the weight matrices (out, in) in file order, one in memory at a time; raise as `read_weights` does."""
    with _opened(path, config) as (file, _, _):
        for name, shape in tensor_shapes(config).items():
            values = _read_floats(file, shape[0] * shape[1])
            if not np.isfinite(values).all():
                raise InvalidCheckpoint(_NOT_FINITE.format(name, "weights"))
            yield values.reshape(shape)


def read_checkpoint(path: Path, config: ModelConfig) -> Checkpoint:
    """Return a whole checkpoint; raise as `read_weights` does."""
    return _read(path, config, with_optimizer=True)


def write_checkpoint(path: Path, checkpoint: Checkpoint, sidecar: tuple[Path, bytes] | None = None) -> None:
    """Write a checkpoint durably: RGPT0003, or RGPT0002 if it has no optimizer state.

    Args:
        path: The checkpoint file.
        checkpoint: The contents; the magic in its header is ignored.
        sidecar: Path and contents of a second file that must change together with the checkpoint. It is written to
            `durable.pending_path` first and renamed last. After an error or a crash it may be pending with either the
            new or the old checkpoint in place; the header tells which, so it is left there (decision 0041).

    Raises:
        OSError: The disk failed or is full.
    """
    header = replace(checkpoint.header, magic="RGPT0003" if checkpoint.optimizer_state else "RGPT0002")
    with durable.atomic_file(path) as file:
        file.write(header.encode())
        for part in (checkpoint.weights, *(checkpoint.optimizer_state or ())):
            file.write(memoryview(part.astype("<f4", copy=False)).cast("B"))
        if sidecar:  # only once the checkpoint is on disk
            durable.sync(file)
            durable.write(durable.pending_path(sidecar[0]), sidecar[1])
    if sidecar:
        durable.pending_path(sidecar[0]).replace(sidecar[0])
        durable.sync_directory(path.parent)


def check_finite(values: Array, config: ModelConfig, kind: str) -> None:
    """Raise InvalidCheckpoint if a number (P,) is not finite, naming its tensor and the `kind` of vector."""
    _check(np.isfinite(values), config, _NOT_FINITE.format("{}", kind))


def check_optimizer_state(exp_avg: Array, exp_avg_sq: Array, config: ModelConfig) -> None:
    """Raise InvalidCheckpoint if AdamW's m or v (P,) is not finite, or v, a mean of squares, is negative."""
    check_finite(exp_avg, config, "first moment")
    check_finite(exp_avg_sq, config, "second moment")
    _check(exp_avg_sq >= 0, config, "negative second moment in {}")


def _check(valid: npt.NDArray[np.bool_], config: ModelConfig, message: str) -> None:
    if valid.all():
        return
    index = int(np.argmin(valid))
    for name, (rows, columns) in tensor_shapes(config).items():
        if index < rows * columns:
            raise InvalidCheckpoint(message.format(name))
        index -= rows * columns


@contextlib.contextmanager
def _opened(path: Path, config: ModelConfig) -> Iterator[tuple[BufferedReader, CheckpointHeader, OptimizerLayout]]:
    """Open a checkpoint at its weights, after checking header and size; errors of the body name the file too."""
    with path.open("rb") as file:
        try:
            header = CheckpointHeader.parse(file.read(HEADER_SIZE))
            yield file, header, header.optimizer_layout(config, os.fstat(file.fileno()).st_size)
        except InvalidCheckpoint as error:
            raise InvalidCheckpoint(f"{path}: {error}") from None


def _read(path: Path, config: ModelConfig, *, with_optimizer: bool) -> Checkpoint:
    count, state = config.parameter_count, None
    with _opened(path, config) as (file, header, layout):
        weights = _read_floats(file, count)
        check_finite(weights, config, "weights")
        if with_optimizer and layout != "none":
            both = _read_floats(file, 2 * count)
            state = (both[:count], both[count:]) if layout == "contiguous" else _deinterleave(both, config)
            check_optimizer_state(*state, config)
    return Checkpoint(header=header, config=config, weights=weights, optimizer_state=state)


def _read_floats(file: BufferedReader, count: int) -> Array:
    data = bytearray(4 * count)
    if file.readinto(data) != len(data):
        raise InvalidCheckpoint("the file was truncated while it was being read")
    values = np.frombuffer(data, "<f4")
    return values.astype(np.float32, copy=False)


def _deinterleave(both: Array, config: ModelConfig) -> tuple[Array, Array]:
    """Split m and v (2P,) that alternate tensor by tensor into all of m and all of v, (P,) each."""
    exp_avg, exp_avg_sq, offset = [], [], 0
    for rows, columns in tensor_shapes(config).values():
        size = rows * columns
        exp_avg.append(both[offset : offset + size])
        exp_avg_sq.append(both[offset + size : offset + 2 * size])
        offset += 2 * size
    return np.concatenate(exp_avg), np.concatenate(exp_avg_sq)
