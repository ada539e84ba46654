"""RGPT files: layouts, damage, and failed writes."""

import errno
import os
import re
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import CONFIG, tiny_checkpoint, write_tiny

from randygpt.checkpoint.rgpt import Array, Checkpoint, read_checkpoint, read_weights, write_checkpoint
from randygpt.errors import InvalidCheckpoint
from randygpt.model.config import MAX_VOCAB, ModelConfig
from randygpt.model.layout import tensor_shapes

COUNT = CONFIG.parameter_count
PARTS = {"weights": 0, "first moment": COUNT, "second moment": 2 * COUNT}  # offsets in RGPT0003, in floats


def offsets() -> dict[str, tuple[int, int]]:
    """Return start and end of each tensor in the flat vector."""
    found, start = {}, 0
    for name, (rows, columns) in tensor_shapes(CONFIG).items():
        found[name] = (start, start + rows * columns)
        start += rows * columns
    return found


def interleaved(checkpoint: Checkpoint, magic: str) -> bytes:
    """Return the bytes of a checkpoint with m and v interleaved by tensor."""
    assert checkpoint.optimizer_state is not None
    first, second = checkpoint.optimizer_state
    parts = [replace(checkpoint.header, magic=magic).encode(), checkpoint.weights.tobytes()]
    for start, end in offsets().values():
        parts += [first[start:end].tobytes(), second[start:end].tobytes()]
    return b"".join(parts)


def plant(path: Path, position: int, value: float) -> None:
    """Replace one number of a file, counted from the end of the header."""
    data = bytearray(path.read_bytes())
    data[24 + 4 * position : 28 + 4 * position] = np.float32(value).tobytes()
    path.write_bytes(data)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    def parts(checkpoint: Checkpoint) -> list[Array]:
        return [checkpoint.weights, *(checkpoint.optimizer_state or ())]

    return len(parts(one)) == len(parts(other)) and all(map(np.array_equal, parts(one), parts(other)))


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_round_trip(*, tmp_path: Path, with_optimizer: bool) -> None:
    written = tiny_checkpoint(seed=3, with_optimizer=with_optimizer)
    write_checkpoint(tmp_path / "m.bin", written)
    read = read_checkpoint(tmp_path / "m.bin", CONFIG)
    assert (read.header, read.config) == (written.header, CONFIG)
    assert same(read, written)
    assert (tmp_path / "m.bin").stat().st_size == 24 + (12 if with_optimizer else 4) * COUNT


def test_rgpt0003_is_header_weights_m_v(tmp_path: Path) -> None:
    written = tiny_checkpoint()
    assert written.optimizer_state is not None
    write_checkpoint(tmp_path / "m.bin", written)
    parts = [written.weights, *written.optimizer_state]
    expected = written.header.encode() + b"".join(part.astype("<f4").tobytes() for part in parts)
    assert (tmp_path / "m.bin").read_bytes() == expected


@pytest.mark.parametrize("magic", ["RGPT0001", "RGPT0002"])
def test_interleaved_optimizer_state_is_read(tmp_path: Path, magic: str) -> None:
    written = tiny_checkpoint()
    (tmp_path / "m.bin").write_bytes(interleaved(written, magic))
    read = read_checkpoint(tmp_path / "m.bin", CONFIG)
    assert read.header.magic == magic
    assert same(read, written)


@pytest.mark.parametrize("magic", ["RGPT0001", "RGPT0002"])
def test_rewritten_old_file_reads_back_equal(tmp_path: Path, magic: str) -> None:
    (tmp_path / "old.bin").write_bytes(interleaved(tiny_checkpoint(), magic))
    old = read_checkpoint(tmp_path / "old.bin", CONFIG)
    write_checkpoint(tmp_path / "new.bin", old)
    assert same(read_checkpoint(tmp_path / "new.bin", CONFIG), old)


@pytest.mark.parametrize("tensor", offsets())
@pytest.mark.parametrize("part", PARTS)
def test_non_finite_number_is_located(tmp_path: Path, tensor: str, part: str) -> None:
    path = write_tiny(tmp_path / "m.bin")
    start, end = offsets()[tensor]
    for position, value in ((start, float("nan")), (end - 1, float("-inf"))):
        whole = path.read_bytes()
        plant(path, PARTS[part] + position, value)
        words = re.escape(f"m.bin: NaN or infinity in {tensor} ({part})")
        with pytest.raises(InvalidCheckpoint, match=words):
            read_checkpoint(path, CONFIG)
        path.write_bytes(whole)


def test_non_finite_number_in_interleaved_state_is_located(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(interleaved(tiny_checkpoint(), "RGPT0001"))
    start, end = offsets()["wpe"]
    plant(path, COUNT + 2 * start + (end - start), float("inf"))
    with pytest.raises(InvalidCheckpoint, match=re.escape("in wpe (second moment)")):
        read_checkpoint(path, CONFIG)


def test_reading_weights_skips_optimizer_state(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin")
    plant(path, COUNT, float("nan"))
    assert np.array_equal(read_weights(path, CONFIG), tiny_checkpoint().weights)


@pytest.mark.parametrize("with_optimizer", [True, False])
@pytest.mark.parametrize("longer", [True, False])
def test_file_off_by_one_byte_is_refused(*, tmp_path: Path, with_optimizer: bool, longer: bool) -> None:
    path = write_tiny(tmp_path / "m.bin", with_optimizer=with_optimizer)
    data = path.read_bytes()
    path.write_bytes(data + b"\0" if longer else data[:-1])
    for read in (read_weights, read_checkpoint):
        with pytest.raises(InvalidCheckpoint, match=f"m.bin: {path.stat().st_size} bytes, but RGPT000"):
            read(path, CONFIG)


@pytest.mark.parametrize("data", [b"", b"RGPT0003", b"GGUF" + bytes(100)])
def test_other_files_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.bin").write_bytes(data)
    with pytest.raises(InvalidCheckpoint, match=r"m\.bin: (truncated|not a randyGPT checkpoint)"):
        read_weights(tmp_path / "m.bin", CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": np.zeros(COUNT - 1, np.float32)},
        {"weights": np.zeros(COUNT)},
        {"optimizer_state": (np.zeros(COUNT, np.float32), np.zeros((1, COUNT), np.float32))},
        {"config": replace(CONFIG, vocab_size=CONFIG.vocab_size + 1)},
    ],
    ids=["too short", "float64", "two-dimensional", "another vocabulary"],
)
def test_invalid_checkpoint_cannot_be_constructed(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidCheckpoint):
        replace(tiny_checkpoint(), **changes)


@pytest.mark.parametrize("vocab_size", [MAX_VOCAB, 2**32 - 1])
def test_no_memory_is_allocated_for_a_false_header(tmp_path: Path, vocab_size: int) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(struct.pack("<8sIIIf", b"RGPT0003", vocab_size, 0, 0, 1.0) + bytes(100))
    config = ModelConfig.from_preset("xl", vocab_size=min(vocab_size, MAX_VOCAB))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidCheckpoint, match=str(vocab_size)):
            read_checkpoint(path, config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "m.bin", CONFIG)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.bin"
    write_checkpoint(path, tiny_checkpoint(seed=1))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, tiny_checkpoint(seed=2))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.bin"]


def test_write_replaces_the_file_atomically(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    write_checkpoint(path, tiny_checkpoint(seed=1))
    with path.open("rb") as reader:
        write_checkpoint(path, tiny_checkpoint(seed=2, with_optimizer=False))
        assert len(reader.read()) == 24 + 12 * COUNT
    assert np.array_equal(read_weights(path, CONFIG), tiny_checkpoint(seed=2).weights)
