"""`randygpt show`: what it says of a file, in words and as JSON."""

import hashlib
import json
import math
from pathlib import Path

import pytest
from support.command import only_line
from support.models import CONFIG, TOKENIZER, side_files, tiny_checkpoint, write_tiny

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import write_checkpoint
from randygpt.checkpoint.sidecar import Sidecar, sidecar_path
from randygpt.cli.main import run
from randygpt.model.config import ModelConfig
from randygpt.model.tokenizer import BpeTokenizer

LOSSES = {"train": 1.5, "val": 1.75, "best_val": 1.625}


def hollow(path: Path, preset: str, vocab_size: int, magic: str, numbers: int) -> None:
    """Write a header and a hole as long as the numbers of a preset's checkpoint."""
    header = CheckpointHeader(magic=magic, vocab_size=vocab_size, iteration=0, step=1, best_loss=float("inf"))
    config = ModelConfig.from_preset(preset, vocab_size=vocab_size)
    with path.open("wb") as file:
        file.write(header.encode())
        file.truncate(24 + 4 * numbers * config.parameter_count)


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert run(["show", "--json", *words]) == 0
    result: dict[str, object] = json.loads(only_line(capsys.readouterr().out))
    return result


def test_show_prints_all_facts_of_a_checkpoint(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny(at_home / "m.bin", seed=7)
    training = {"bytes_per_token": 1.25}
    sidecar = Sidecar(config=CONFIG, tokenizer=TOKENIZER, name="tiny", iteration=7, losses=LOSSES, training=training)
    (at_home / "m.json").write_bytes(sidecar.encode())
    data = path.read_bytes()
    assert as_json(capsys, "m.bin") == {
        "file": "m.bin",
        "name": "tiny",
        "format": "RGPT0003",
        "moments": True,
        "preset": "custom",
        "n_embd": 16,
        "n_head": 2,
        "n_layer": 2,
        "block_size": 256,
        "vocab_size": 31,
        "tokenizer": "char",
        "parameters": (len(data) - 24) // 12,
        "iteration": 7,
        "step": 8,
        "best_loss": 2.5,
        "train_loss": 1.5,
        "val_loss": 1.75,
        "bits_per_byte": 1.75 / math.log(2) / 1.25,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert run(["show", "m.bin"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"file        m.bin (134.8 kB, {len(data):,} bytes)",
        "name        tiny",
        "format      RGPT0003, with optimizer state",
        "shape       custom: 2 layers, 2 heads, width 16, context length 256",
        "vocabulary  31 characters",
        "parameters  11,232",
        "trained     to iteration 8, 8 optimizer steps",
        "best loss   2.5000 (perplexity 12.18)",
        "train loss  1.5000 (perplexity 4.48)",
        "val loss    1.7500 (perplexity 5.75)",
        "bits/byte   2.020 (validation text)",
        f"sha256      {hashlib.sha256(data).hexdigest()}",
    ]


def test_losses_of_another_save_are_not_shown(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(at_home / "m.bin", seed=7)
    (at_home / "m.json").write_bytes(Sidecar(config=CONFIG, tokenizer=TOKENIZER, iteration=8, losses=LOSSES).encode())
    shown = as_json(capsys, "m.bin")
    assert (shown["train_loss"], shown["val_loss"], shown["best_loss"]) == (None, None, 2.5)


def test_show_takes_the_folder_of_a_release(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (at_home / "release").mkdir()
    write_checkpoint(at_home / "release" / "story.bin", tiny_checkpoint(with_optimizer=False))
    for name, data in side_files().items():
        (at_home / "release" / name).write_bytes(data)
    shown = as_json(capsys, "release")
    assert (shown["file"], shown["format"], shown["moments"]) == ("release/story.bin", "RGPT0002", False)
    assert (shown["name"], shown["tokenizer"], shown["train_loss"]) == (None, "char", None)


def test_show_without_sidecar_asks_for_the_shape(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hollow(at_home / "m.bin", "deep", 6016, "RGPT0002", 1)  # as long as s with moments
    assert run(["show", "m.bin"]) == 2
    assert "choose one with --preset" in only_line(capsys.readouterr().err)
    shown = as_json(capsys, "m.bin", "--preset", "deep")
    assert (shown["preset"], shown["moments"], shown["tokenizer"], shown["best_loss"]) == ("deep", False, None, None)
    assert run(["show", "m.bin", "--preset", "s"]) == 0
    text = capsys.readouterr().out
    assert "shape       s: 8 layers, 4 heads, width 128, context length 256\n" in text
    assert "vocabulary  6,016 tokens; no vocabulary file found\n" in text
    assert "loss" not in text


def test_show_names_bpe_tokens(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = BpeTokenizer.train("the fox and the dog and the fox\n" * 9, 31)
    hollow(at_home / "m.bin", "xs", tokenizer.vocab_size, "RGPT0003", 3)
    config = ModelConfig.from_preset("xs", vocab_size=tokenizer.vocab_size)
    sidecar_path(at_home / "m.bin").write_bytes(Sidecar(config=config, tokenizer=tokenizer).encode())
    assert run(["show", "m.bin"]) == 0
    assert f"vocabulary  {tokenizer.vocab_size} BPE tokens\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("missing.bin", "no file and no installed release: 'missing.bin'"),
        ("missing/file.bin", "no file 'missing/file.bin', and no author 'missing' on your trust list"),
        ("ab" * 32, "no relays configured"),
        ("empty", "empty contains 0 checkpoints"),
        ("text.bin", "text.bin: not a randyGPT checkpoint"),
    ],
)
def test_show_refuses_other_files(at_home: Path, capsys: pytest.CaptureFixture[str], file: str, says: str) -> None:
    (at_home / "empty").mkdir()
    (at_home / "text.bin").write_text("GGUF" * 100, encoding="utf-8")
    assert run(["show", file]) == 2
    out, err = capsys.readouterr()
    assert (out, says in only_line(err)) == ("", True)
