"""Sidecar: where shape and vocabulary come from, and how damage is reported."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.models import CONFIG, TOKENIZER, side_files, tiny_checkpoint, write_tiny

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import write_checkpoint
from randygpt.checkpoint.sidecar import (
    Sidecar,
    inspect_checkpoint,
    read_json,
    read_sidecar,
    read_tokenizer,
    sidecar_path,
)
from randygpt.errors import InvalidCheckpoint, InvalidModelFile
from randygpt.model.config import ModelConfig
from randygpt.model.tokenizer import CharTokenizer

# Shapes with equal file sizes, so that only their source tells them apart.
IN_SIDECAR, IN_FOLDER = CONFIG, replace(CONFIG, n_head=4)
AMBIGUOUS_VOCAB = 6016  # preset s with optimizer state is as long as deep without


def bare(path: Path) -> Path:
    """Write a checkpoint without a sidecar."""
    write_checkpoint(path, tiny_checkpoint())
    return path


def hollow(path: Path, config: ModelConfig, *, magic: str = "RGPT0003", numbers: int = 3) -> Path:
    """Write a header and extend the file to a checkpoint's length."""
    header = CheckpointHeader(magic=magic, vocab_size=config.vocab_size, iteration=0, step=1, best_loss=1.0)
    with path.open("wb") as file:
        file.write(header.encode())
        file.truncate(24 + 4 * numbers * config.parameter_count)
    return path


def put_config(folder: Path, config: ModelConfig) -> None:
    (folder / "config.json").write_text(json.dumps(config.to_json("char")), encoding="utf-8")


def test_round_trip(tmp_path: Path) -> None:
    written = Sidecar(
        config=CONFIG,
        tokenizer=CharTokenizer.from_text('né€\U0001f600\u2028"\\'),
        name="prose",
        iteration=24,
        losses={"train": 1.5, "val": 1.75, "best_val": None},
        training={"seed": 7, "plateau": {"best": 1.5, "waited": 2, "cuts": 1}},
    )
    (tmp_path / "m.json").write_bytes(written.encode())
    read = read_sidecar(tmp_path / "m.bin")
    assert read is not None
    assert replace(read, tokenizer=written.tokenizer) == written
    assert read.tokenizer.vocab == written.tokenizer.vocab


@pytest.mark.parametrize(
    ("iteration", "losses", "expected"),
    [
        (7, {"best_val": 1 / 3}, True),
        (7, {}, True),
        (8, {"best_val": 1 / 3}, False),
        (7, {"best_val": 0.3333334}, False),
        (7, {"best_val": None}, False),
    ],
)
def test_sidecar_matches_its_header(*, iteration: int, losses: dict[str, float | None], expected: bool) -> None:
    header = replace(tiny_checkpoint().header, iteration=7, best_loss=1 / 3)
    sidecar = Sidecar(config=CONFIG, tokenizer=TOKENIZER, iteration=iteration, losses=losses)
    assert sidecar.matches(CheckpointHeader.parse(header.encode())) == expected
    unmeasured = replace(header, best_loss=math.inf)
    assert replace(sidecar, iteration=7).matches(unmeasured) == (losses.get("best_val") is None)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 7},
        {"iteration": -1},
        {"iteration": True},
        {"losses": {"val": math.nan}},
        {"losses": []},
        {"training": None},
    ],
    ids=str,
)
def test_invalid_sidecar_cannot_be_constructed(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidModelFile, match=next(iter(changes)).removesuffix("es")):
        replace(Sidecar(config=CONFIG, tokenizer=TOKENIZER), **changes)


@pytest.mark.parametrize("changes", [{"size": 1000}, {"tokenizer": CharTokenizer("ab")}], ids=["size", "vocabulary"])
def test_invalid_checkpoint_info_cannot_be_constructed(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = inspect_checkpoint(write_tiny(tmp_path / "m.bin"))
    with pytest.raises(InvalidModelFile):
        replace(found, **changes)


def test_sidecar_path(tmp_path: Path) -> None:
    assert sidecar_path(tmp_path / "run.v2_best.bin") == tmp_path / "run.v2_best.json"
    assert read_sidecar(tmp_path / "m.bin") is None


def test_optional_keys_may_be_missing(tmp_path: Path) -> None:
    contents = {"config": CONFIG.to_json("char"), "tokenizer": TOKENIZER.to_json()}
    (tmp_path / "m.json").write_text(json.dumps(contents), encoding="utf-8")
    read = read_sidecar(tmp_path / "m.bin")
    assert read is not None
    assert (read.name, read.iteration, read.losses, read.training) == ("", 0, {}, {})


def test_inspect_reports_everything(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin", seed=3, name="tiny")
    found = inspect_checkpoint(path)
    assert (found.path, found.size, found.header, found.config) == (
        path,
        path.stat().st_size,
        tiny_checkpoint(seed=3).header,
        CONFIG,
    )
    assert found.tokenizer is not None
    assert found.tokenizer.vocab == TOKENIZER.chars
    assert found.sidecar is not None
    assert found.sidecar.name == "tiny"


def test_shape_comes_first_from_the_sidecar(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin")
    put_config(tmp_path, IN_FOLDER)
    assert inspect_checkpoint(path).config == IN_SIDECAR


def test_shape_comes_second_from_config_json(tmp_path: Path) -> None:
    path = bare(tmp_path / "m.bin")
    put_config(tmp_path, IN_FOLDER)
    assert inspect_checkpoint(path).config == IN_FOLDER


@pytest.mark.parametrize("where", ["sidecar", "folder"])
def test_preset_that_contradicts_the_recorded_shape(tmp_path: Path, where: str) -> None:
    config = ModelConfig.from_preset("xs", vocab_size=TOKENIZER.vocab_size)
    path = hollow(tmp_path / "m.bin", config)
    if where == "sidecar":
        (tmp_path / "m.json").write_bytes(Sidecar(config=config, tokenizer=TOKENIZER).encode())
    else:
        put_config(tmp_path, config)
    with pytest.raises(InvalidModelFile, match=r"m\.bin: .*says preset xs, but the flags say preset xl"):
        inspect_checkpoint(path, preset="xl")
    assert inspect_checkpoint(path, preset="xs").config == config


@pytest.mark.parametrize("preset", [None, "xs"])
def test_sidecar_with_another_vocabulary_size_is_refused(tmp_path: Path, preset: str | None) -> None:
    config = ModelConfig.from_preset("xs", vocab_size=TOKENIZER.vocab_size)
    path = hollow(tmp_path / "m.bin", config)
    (tmp_path / "m.json").write_bytes(Sidecar(config=replace(config, vocab_size=40), tokenizer=TOKENIZER).encode())
    with pytest.raises(InvalidCheckpoint, match=r"m\.bin: vocab 31 in the header, 40 in the configuration"):
        inspect_checkpoint(path, preset=preset)


def test_preset_that_contradicts_a_custom_shape(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidModelFile,
        match=r"m\.bin: .*says dim 16, heads 2, .* say preset xs",
    ):
        inspect_checkpoint(write_tiny(tmp_path / "m.bin"), preset="xs")


@pytest.mark.parametrize(("preset", "numbers"), [("s", 3), ("deep", 1)])
def test_shape_comes_third_from_the_preset(tmp_path: Path, preset: str, numbers: int) -> None:
    config = ModelConfig.from_preset(preset, vocab_size=AMBIGUOUS_VOCAB)
    path = hollow(tmp_path / "m.bin", config, magic="RGPT0002", numbers=numbers)
    assert inspect_checkpoint(path, preset=preset).config == config
    with pytest.raises(InvalidCheckpoint, match=r"m\.bin: .* s and deep: choose one with --preset"):
        inspect_checkpoint(path)


def test_shape_comes_last_from_the_size(tmp_path: Path) -> None:
    config = ModelConfig.from_preset("m", vocab_size=67)
    found = inspect_checkpoint(hollow(tmp_path / "m.bin", config))
    assert found.config == config
    assert found.tokenizer is None
    assert found.sidecar is None


def test_preset_that_does_not_fit_the_size(tmp_path: Path) -> None:
    path = hollow(tmp_path / "m.bin", ModelConfig.from_preset("xs", vocab_size=67))
    with pytest.raises(InvalidCheckpoint, match=r"m\.bin: .* bytes, but RGPT0003 with shape randygpt-8L"):
        inspect_checkpoint(path, preset="xl")
    with pytest.raises(InvalidModelFile, match=r"m\.bin: unknown preset 'huge'"):
        inspect_checkpoint(path, preset="huge")


def test_sidecar_shape_that_does_not_fit_the_size(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin")
    (tmp_path / "m.json").write_bytes(Sidecar(config=replace(CONFIG, n_layer=3), tokenizer=TOKENIZER).encode())
    with pytest.raises(InvalidCheckpoint, match=r"m\.bin: .* bytes, but"):
        inspect_checkpoint(path)


def test_order_of_vocabulary_sources(tmp_path: Path) -> None:
    def vocabulary(first: int) -> CharTokenizer:
        return CharTokenizer([chr(first + index) for index in range(CONFIG.vocab_size)])

    named, in_sidecar, in_folder = vocabulary(0x100), vocabulary(0x200), vocabulary(0x300)
    path = bare(tmp_path / "m.bin")
    put_config(tmp_path, CONFIG)
    for name, tokenizer in (("named.json", named), ("vocab.json", in_folder)):
        (tmp_path / name).write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")

    def found(vocab: Path | None = None) -> tuple[str, ...]:
        tokenizer = inspect_checkpoint(path, vocab=vocab).tokenizer
        assert tokenizer is not None
        return tuple(tokenizer.vocab)

    assert found() == in_folder.chars
    (tmp_path / "m.json").write_bytes(Sidecar(config=CONFIG, tokenizer=in_sidecar).encode())
    assert found() == in_sidecar.chars
    assert found(tmp_path / "named.json") == named.chars


@pytest.mark.parametrize("where", ["m.json", "vocab.json", "given.json"])
def test_vocabulary_of_another_size_is_refused(tmp_path: Path, where: str) -> None:
    path = bare(tmp_path / "m.bin")
    put_config(tmp_path, CONFIG)
    other = CharTokenizer(TOKENIZER.chars[:-1])
    if where == "m.json":
        (tmp_path / where).write_bytes(Sidecar(config=CONFIG, tokenizer=other).encode())
    else:
        (tmp_path / where).write_text(json.dumps(other.to_json()), encoding="utf-8")
    given = tmp_path / where if where == "given.json" else None
    with pytest.raises(InvalidModelFile, match=r"m\.bin: vocab 31 in the header, 30 entries in the vocabulary$"):
        inspect_checkpoint(path, vocab=given)


GOOD: dict[str, Any] = {"config": CONFIG.to_json("char"), "tokenizer": TOKENIZER.to_json()}
NOT_JSON = {"cut off": b'{"config": {', "empty": b"", "not UTF-8": b"\xff\xfe\xfd", "deep": b"[" * 200_000}
NOT_A_SIDECAR: dict[str, object] = {
    "null": None,
    "list": [],
    "empty object": {},
    "no tokenizer": {"config": GOOD["config"]},
    "field out of range": GOOD | {"config": GOOD["config"] | {"n_head": 0}},
    "words in the tokenizer": GOOD | {"tokenizer": {"chars": ["a", "word"]}},
    "name is a number": GOOD | {"name": 7},
    "iteration is a string": GOOD | {"iteration": "7"},
    "losses are a list": GOOD | {"losses": []},
    "loss is a string": GOOD | {"losses": {"train": "1.5"}},
    "loss is true": GOOD | {"losses": {"val": True}},
    "loss is NaN": GOOD | {"losses": {"val": float("nan")}},
    "loss is infinite": GOOD | {"losses": {"best_val": float("inf")}},
    "loss beyond all floats": GOOD | {"losses": {"best_val": 10**400}},
    "training is null": GOOD | {"training": None},
}


@pytest.mark.parametrize(
    "data",
    [*NOT_JSON.values(), *(json.dumps(contents).encode() for contents in NOT_A_SIDECAR.values())],
    ids=[*NOT_JSON, *NOT_A_SIDECAR],
)
def test_damaged_sidecar_is_named(tmp_path: Path, data: bytes) -> None:
    path = bare(tmp_path / "m.bin")
    (tmp_path / "m.json").write_bytes(data)
    with pytest.raises(InvalidModelFile, match=r"m\.json: "):
        inspect_checkpoint(path)


@pytest.mark.parametrize("value", [None, 0, 2.5, 3])
def test_loss_may_be_a_finite_number_or_null(tmp_path: Path, value: float | None) -> None:
    path = bare(tmp_path / "m.bin")
    (tmp_path / "m.json").write_text(json.dumps(GOOD | {"losses": {"val": value}}), encoding="utf-8")
    read = read_sidecar(path)
    assert read is not None
    assert read.losses == {"val": value}


@pytest.mark.parametrize("data", [*NOT_JSON.values(), b"[]", b"{}", b'{"n_embd": 1}'], ids=lambda data: repr(data)[:12])
def test_damaged_config_json_is_named(tmp_path: Path, data: bytes) -> None:
    path = bare(tmp_path / "m.bin")
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(InvalidModelFile, match=r"config\.json: "):
        inspect_checkpoint(path)


@pytest.mark.parametrize("data", [*NOT_JSON.values(), b"[]", b'{"chars": [1, 2]}'], ids=lambda data: repr(data)[:12])
def test_damaged_vocab_json_is_named(tmp_path: Path, data: bytes) -> None:
    path = bare(tmp_path / "m.bin")
    for name, contents in (side_files() | {"vocab.json": data}).items():
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(InvalidModelFile, match=r"vocab\.json: ") as caught:
        inspect_checkpoint(path)
    assert str(caught.value).count("vocab.json") == 1
    with pytest.raises(InvalidModelFile, match=r"vocab\.json: "):
        read_tokenizer(tmp_path / "vocab.json")


def test_oversized_json_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(InvalidModelFile, match=r"m\.json: larger than"):
        read_json(tmp_path / "m.json")


@pytest.mark.parametrize("data", [b"", b"RGPT0003", b"GGUF" + bytes(100)])
def test_other_files_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.bin").write_bytes(data)
    with pytest.raises(InvalidCheckpoint, match=r"m\.bin: "):
        inspect_checkpoint(tmp_path / "m.bin")


def test_missing_checkpoint_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inspect_checkpoint(tmp_path / "m.bin")
