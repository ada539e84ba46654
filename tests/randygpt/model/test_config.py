"""Model shapes: limits, presets and config.json."""

from typing import Any

import pytest

from randygpt.errors import InvalidModelFile
from randygpt.model.config import PRESETS, ModelConfig, default_batch_size

TINY = {"n_embd": 16, "n_head": 2, "n_layer": 2, "block_size": 256, "vocab_size": 31}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_recognizes_its_own_shape(preset: str) -> None:
    assert ModelConfig.from_preset(preset, vocab_size=67).preset == preset


def test_other_shapes_are_called_custom() -> None:
    assert ModelConfig(n_embd=116, n_head=2, n_layer=3, vocab_size=67).preset == "custom"
    assert ModelConfig(n_embd=116, n_head=4, n_layer=3, vocab_size=67, block_size=128).preset == "custom"


def test_json_round_trip() -> None:
    config = ModelConfig.from_preset("xs", vocab_size=67)
    raw = config.to_json("char")
    assert raw == {
        "preset": "xs",
        "n_embd": 116,
        "n_head": 4,
        "n_layer": 3,
        "block_size": 256,
        "vocab_size": 67,
        "tokenizer": "char",
    }
    assert ModelConfig.from_json(raw | {"added later": 1}) == config


def test_model_name() -> None:
    assert ModelConfig.from_preset("l", vocab_size=67).name == "randygpt-6L-8H-256D"


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("value", [0, -1, 1 << 40, True, 2.0, "16", None])
def test_field_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidModelFile, match=name):
        ModelConfig.from_json(TINY | {name: value})


@pytest.mark.parametrize("name", TINY)
def test_missing_field_is_named(name: str) -> None:
    raw = {key: value for key, value in TINY.items() if key != name}
    with pytest.raises(InvalidModelFile, match=f"lacks {name}"):
        ModelConfig.from_json(raw)


@pytest.mark.parametrize("raw", [None, [], "xs", 1])
def test_configuration_must_be_an_object(raw: object) -> None:
    with pytest.raises(InvalidModelFile, match="not a JSON object"):
        ModelConfig.from_json(raw)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InvalidModelFile, match="n_head 3 does not divide n_embd 16"):
        ModelConfig.from_json(TINY | {"n_head": 3})
    with pytest.raises(InvalidModelFile, match="--heads 3 does not divide --dim 256"):
        ModelConfig.from_preset("l", vocab_size=67, n_head=3)


@pytest.mark.parametrize(
    ("field", "flag"), [("n_embd", "--dim"), ("n_head", "--heads"), ("n_layer", "--layers"), ("block_size", "--block")]
)
def test_overrides_out_of_range_name_the_flag(field: str, flag: str) -> None:
    with pytest.raises(InvalidModelFile, match=f"{flag} must be a whole number from 1 to .*, not 100000"):
        ModelConfig.from_preset("l", vocab_size=67, **{field: 100_000})


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidModelFile, match="unknown preset 'xxl': choose one of xs, s, ds, m, l, deep, xl"):
        ModelConfig.from_preset("xxl", vocab_size=67)


@pytest.mark.parametrize(("preset", "batch_size"), [("deep", 16), ("xs", 64), ("l", 64)])
def test_default_batch_sizes(preset: str, batch_size: int) -> None:
    assert default_batch_size(preset) == batch_size


def test_config_is_immutable() -> None:
    config: Any = ModelConfig(**TINY)
    with pytest.raises(AttributeError):
        config.n_layer = 3
