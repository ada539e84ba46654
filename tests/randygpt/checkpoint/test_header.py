"""RGPT header: limits of every field, and the exact file sizes it implies."""

import math
import re
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import CONFIG

from randygpt.checkpoint.header import (
    HEADER_SIZE,
    MAGICS,
    CheckpointHeader,
    OptimizerLayout,
    segments,
    weights_size,
)
from randygpt.errors import InvalidCheckpoint, InvalidModelFile
from randygpt.model.config import MAX_VOCAB, PRESETS, ModelConfig
from randygpt.model.layout import tensor_shapes

HEADER = CheckpointHeader(magic="RGPT0003", vocab_size=67, iteration=29, step=30, best_loss=1.5)
FIELD_ENDS = {"magic": 8, "vocab": 12, "iter": 16, "step": 20, "best_loss": 24}
AMBIGUOUS_VOCAB = 6016  # preset s with optimizer state is as long as deep without

counts = st.integers(0, 2**32 - 1)


def header(magic: str, vocab_size: int = CONFIG.vocab_size) -> CheckpointHeader:
    return CheckpointHeader(magic=magic, vocab_size=vocab_size, iteration=0, step=1, best_loss=2.5)


def raw(magic: bytes = b"RGPT0003", vocab_size: int = 67, best_loss: float = 1.5) -> bytes:
    return struct.pack("<8sIIIf", magic, vocab_size, 29, 30, best_loss)


def sizes(config: ModelConfig) -> tuple[int, int]:
    """Return the file sizes without and with optimizer state."""
    return 24 + 4 * config.parameter_count, 24 + 12 * config.parameter_count


def test_header_bytes_are_little_endian() -> None:
    assert HEADER.encode() == b"RGPT0003" + bytes.fromhex("43000000 1d000000 1e000000 0000c03f")


@given(
    magic=st.sampled_from(MAGICS),
    vocab_size=st.integers(1, MAX_VOCAB),
    iteration=counts,
    step=counts,
    best_loss=st.floats(min_value=0, width=32),
)
def test_round_trip(magic: str, vocab_size: int, iteration: int, step: int, best_loss: float) -> None:
    made = CheckpointHeader(magic=magic, vocab_size=vocab_size, iteration=iteration, step=step, best_loss=best_loss)
    encoded = made.encode()
    assert len(encoded) == HEADER_SIZE
    assert CheckpointHeader.parse(encoded + b"weights") == made


@pytest.mark.parametrize("length", range(HEADER_SIZE))
def test_truncated_header_names_its_last_field(length: int) -> None:
    field = next(name for name, end in FIELD_ENDS.items() if length < end)
    with pytest.raises(InvalidCheckpoint, match=f"{length} bytes end in field {field}$"):
        CheckpointHeader.parse(HEADER.encode()[:length])


@pytest.mark.parametrize("magic", [b"RGPT0000", b"RGPT0004", b"rgpt0003", b"GGUF\3\0\0\0", b"\xff" * 8, bytes(8)])
def test_unknown_magic_is_shown(magic: bytes) -> None:
    with pytest.raises(InvalidCheckpoint, match=re.escape(repr(magic.decode("ascii", "backslashreplace")))):
        CheckpointHeader.parse(raw(magic))


@pytest.mark.parametrize("vocab_size", [0, MAX_VOCAB + 1, 2**32 - 1])
def test_vocabulary_size_out_of_range_is_refused(vocab_size: int) -> None:
    with pytest.raises(InvalidCheckpoint, match=f"vocab must be from 1 to {MAX_VOCAB}, not {vocab_size}"):
        CheckpointHeader.parse(raw(vocab_size=vocab_size))


@pytest.mark.parametrize("vocab_size", [1, MAX_VOCAB])
def test_limits_of_vocabulary_size_are_allowed(vocab_size: int) -> None:
    assert CheckpointHeader.parse(raw(vocab_size=vocab_size)).vocab_size == vocab_size


@pytest.mark.parametrize("best_loss", [math.nan, -math.inf])
def test_impossible_best_loss_is_refused(best_loss: float) -> None:
    with pytest.raises(InvalidCheckpoint, match="best_loss must be"):
        CheckpointHeader.parse(raw(best_loss=best_loss))


@pytest.mark.parametrize(
    "changes",
    [{"best_loss": 1e39}, {"iteration": 2**32}, {"step": -1}, {"vocab_size": 0}, {"step": 1.5}, {"magic": "RGPT0009"}],
)
def test_invalid_header_cannot_be_constructed(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidCheckpoint):
        replace(CheckpointHeader.parse(raw()), **changes)


def test_best_loss_may_be_infinite() -> None:
    assert CheckpointHeader.parse(raw(best_loss=math.inf)).best_loss == math.inf


@given(st.binary(max_size=64) | st.builds(bytes.__add__, st.sampled_from([b"RGPT0001", b"RGPT0002"]), st.binary()))
def test_any_bytes_give_a_header_or_our_error(data: bytes) -> None:
    try:
        found = CheckpointHeader.parse(data)
    except InvalidCheckpoint:
        return
    assert found.encode() == data[:HEADER_SIZE]


@pytest.mark.parametrize(
    ("magic", "with_optimizer", "expected"),
    [
        ("RGPT0001", True, "interleaved"),
        ("RGPT0002", False, "none"),
        ("RGPT0002", True, "interleaved"),
        ("RGPT0003", True, "contiguous"),
    ],
)
def test_optimizer_layout_by_magic_and_size(*, magic: str, with_optimizer: bool, expected: OptimizerLayout) -> None:
    assert header(magic).optimizer_layout(CONFIG, sizes(CONFIG)[with_optimizer]) == expected


@pytest.mark.parametrize("magic", ["RGPT0001", "RGPT0003"])
def test_only_rgpt0002_may_lack_optimizer_state(magic: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=f"has {sizes(CONFIG)[1]}$"):
        header(magic).optimizer_layout(CONFIG, sizes(CONFIG)[0])


@pytest.mark.parametrize("magic", MAGICS)
@pytest.mark.parametrize("size", sizes(CONFIG))
@pytest.mark.parametrize("off", [-1, 1])
def test_size_off_by_one_byte_is_refused(magic: str, size: int, off: int) -> None:
    with pytest.raises(InvalidCheckpoint, match=f"{size + off} bytes, but {magic} .*{sizes(CONFIG)[1]}$"):
        header(magic).optimizer_layout(CONFIG, size + off)


def test_vocabulary_must_match_the_configuration() -> None:
    with pytest.raises(InvalidCheckpoint, match="vocab 67 in the header, 31 in the configuration"):
        HEADER.optimizer_layout(CONFIG, sizes(CONFIG)[1])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("magic", "with_optimizer"), [("RGPT0001", True), ("RGPT0002", False), ("RGPT0002", True), ("RGPT0003", True)]
)
def test_size_determines_the_preset(*, preset: str, magic: str, with_optimizer: bool) -> None:
    config = ModelConfig.from_preset(preset, vocab_size=67)
    assert header(magic, 67).infer_config(sizes(config)[with_optimizer]) == config


def test_ambiguous_size_names_both_presets() -> None:
    small = ModelConfig.from_preset("s", vocab_size=AMBIGUOUS_VOCAB)
    deep = ModelConfig.from_preset("deep", vocab_size=AMBIGUOUS_VOCAB)
    assert sizes(small)[1] == sizes(deep)[0]
    with pytest.raises(InvalidCheckpoint, match="the presets s and deep: choose one with --preset"):
        header("RGPT0002", AMBIGUOUS_VOCAB).infer_config(sizes(deep)[0])


def test_magic_resolves_an_ambiguous_size() -> None:
    config = ModelConfig.from_preset("s", vocab_size=AMBIGUOUS_VOCAB)
    assert header("RGPT0003", AMBIGUOUS_VOCAB).infer_config(sizes(config)[1]) == config


@pytest.mark.parametrize("size", [0, 24, 24 + 12 * 529_656 - 1])
def test_size_of_no_preset_is_refused(size: int) -> None:
    with pytest.raises(InvalidCheckpoint, match=f"{size} bytes fit no preset with vocab 67"):
        HEADER.infer_config(size)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_count_is_the_sum_of_the_tensors(preset: str) -> None:
    config = ModelConfig.from_preset(preset, vocab_size=67)
    assert config.parameter_count == sum(rows * columns for rows, columns in tensor_shapes(config).values())


def test_largest_preset_has_14_million_parameters() -> None:
    assert ModelConfig.from_preset("xl", vocab_size=67).parameter_count == 14_305_536


def test_tensors_in_file_order() -> None:
    config = ModelConfig(n_embd=8, n_head=2, n_layer=2, vocab_size=5, block_size=3)
    square, wide, narrow = (8, 8), (32, 8), (8, 32)
    layer = [("wq", square), ("wk", square), ("wv", square), ("wo", square), ("fc1", wide), ("fc2", narrow)]
    assert list(tensor_shapes(config).items()) == [
        ("wte", (5, 8)),
        ("wpe", (3, 8)),
        ("lm_head", (5, 8)),
        *((f"layer0.{name}", shape) for name, shape in layer),
        *((f"layer1.{name}", shape) for name, shape in layer),
    ]


def test_segments_of_a_file() -> None:
    without, with_optimizer = sizes(CONFIG)
    assert weights_size(CONFIG) == without
    assert segments(CONFIG, without) == [("weights", without)]
    assert segments(CONFIG, with_optimizer) == [("weights", without), ("optimizer", with_optimizer - without)]


def test_invalid_checkpoint_is_an_invalid_model_file() -> None:
    assert issubclass(InvalidCheckpoint, InvalidModelFile)
