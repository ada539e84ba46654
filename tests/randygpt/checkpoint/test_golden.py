"""Compatibility with the Rust program: files that it wrote, and the logits it computes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import Checkpoint, read_checkpoint, read_weights, write_checkpoint
from randygpt.checkpoint.sidecar import inspect_checkpoint, read_tokenizer
from randygpt.model.decoder import Decoder
from randygpt.model.gpt import GPT

NAMES = ("rgpt0001", "rgpt0002", "rgpt0002_moments", "rgpt0003")


def path_of(golden: Path, name: str) -> Path:
    return golden / f"xs_char_{name}.bin"


def read(golden: Path, name: str) -> Checkpoint:
    path = path_of(golden, name)
    return read_checkpoint(path, inspect_checkpoint(path).config)


@pytest.mark.parametrize("name", NAMES)
def test_header_and_preset_of_rust_files(golden: Path, name: str) -> None:
    found = inspect_checkpoint(path_of(golden, name))
    assert found.config.preset == "xs"
    assert found.header == CheckpointHeader(
        magic=name[:8].upper(), vocab_size=67, iteration=29, step=30, best_loss=found.header.best_loss
    )
    assert found.header.best_loss == pytest.approx(3.233152)


@pytest.mark.parametrize("name", NAMES)
def test_logits_match_the_rust_program(golden: Path, name: str) -> None:
    path = path_of(golden, name)
    config = inspect_checkpoint(path).config
    with np.load(golden / "xs_char_logits.npz") as expected, torch.inference_mode():
        weights = read_weights(path, config)
        logits = GPT(config, torch.from_numpy(weights))(torch.from_numpy(expected["tokens"]))
        np.testing.assert_allclose(logits.numpy(), expected["logits"], rtol=0, atol=1e-4)
        decoder = Decoder.from_flat(config, weights)
        for row, ids in enumerate(expected["tokens"].tolist()):
            np.testing.assert_allclose(decoder.logits(ids), expected["logits"][row], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["rgpt0001", "rgpt0002_moments"])
def test_interleaved_optimizer_state_equals_contiguous(golden: Path, name: str) -> None:
    old, new = read(golden, name), read(golden, "rgpt0003")
    assert old.optimizer_state is not None
    assert new.optimizer_state is not None
    assert np.array_equal(old.weights, new.weights)
    assert np.array_equal(old.optimizer_state[0], new.optimizer_state[0])
    assert np.array_equal(old.optimizer_state[1], new.optimizer_state[1])


def test_rgpt0003_is_written_byte_for_byte(golden: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.bin", read(golden, "rgpt0003"))
    assert (tmp_path / "m.bin").read_bytes() == path_of(golden, "rgpt0003").read_bytes()


def test_rgpt0002_is_written_byte_for_byte(golden: Path, tmp_path: Path) -> None:
    whole = read(golden, "rgpt0003")
    header = replace(whole.header, magic="RGPT0002")
    write_checkpoint(tmp_path / "m.bin", replace(whole, header=header, optimizer_state=None))
    assert (tmp_path / "m.bin").read_bytes() == path_of(golden, "rgpt0002").read_bytes()


def test_vocabulary_of_the_rust_program(golden: Path) -> None:
    tokenizer = read_tokenizer(golden / "xs_char_vocab.json")
    assert tokenizer.vocab_size == 67
    assert tuple(tokenizer.vocab[:4]) == ("<", ">", "\n", " ")
    text = "First Citizen:\nBefore we proceed any further, hear me speak."
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == text
    assert tokenizer.encode("Az<>").tolist() == [15, 66, 0, 1]
