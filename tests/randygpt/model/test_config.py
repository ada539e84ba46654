"""Shapes of models: which are possible, and how a release's config.json says them."""

from typing import Any

import pytest

from randygpt.errors import InvalidModelFile
from randygpt.model.config import PRESETS, ModelConfig, default_batch_size

TINY = {"n_embd": 16, "n_head": 2, "n_layer": 2, "block_size": 256, "vocab_size": 31}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_knows_its_own_name(preset: str) -> None:
    assert ModelConfig.from_preset(preset, vocab_size=67).preset == preset


def test_a_shape_that_is_no_preset_is_called_custom() -> None:
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


def test_the_name_in_replies() -> None:
    assert ModelConfig.from_preset("l", vocab_size=67).name == "randygpt-6L-8H-256D"


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("value", [0, -1, 1 << 40, True, 2.0, "16", None])
def test_a_field_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidModelFile, match=name):
        ModelConfig.from_json(TINY | {name: value})


@pytest.mark.parametrize("name", TINY)
def test_a_missing_field_is_named(name: str) -> None:
    raw = {key: value for key, value in TINY.items() if key != name}
    with pytest.raises(InvalidModelFile, match=f"lacks {name}"):
        ModelConfig.from_json(raw)


@pytest.mark.parametrize("raw", [None, [], "xs", 1])
def test_a_configuration_that_is_no_object(raw: object) -> None:
    with pytest.raises(InvalidModelFile, match="not an object"):
        ModelConfig.from_json(raw)


def test_the_width_divides_into_heads() -> None:
    with pytest.raises(InvalidModelFile, match="not a multiple"):
        ModelConfig.from_json(TINY | {"n_head": 3})


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InvalidModelFile, match=r"'xxl'.*xs, s, ds, m, l, deep, xl"):
        ModelConfig.from_preset("xxl", vocab_size=67)


@pytest.mark.parametrize(("preset", "batch_size"), [("deep", 16), ("xs", 64), ("l", 64)])
def test_batch_sizes(preset: str, batch_size: int) -> None:
    assert default_batch_size(preset) == batch_size


def test_a_shape_cannot_be_changed_afterwards() -> None:
    config: Any = ModelConfig(**TINY)
    with pytest.raises(AttributeError):
        config.n_layer = 3
