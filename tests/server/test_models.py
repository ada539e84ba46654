"""Loading of models, and their self-test."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.models import CONFIG, TOKENIZER, has_weights, tiny_checkpoint, write_tiny

from randygpt.checkpoint.rgpt import Checkpoint, write_checkpoint
from randygpt.errors import CallerError, InvalidCheckpoint, InvalidModelFile
from server.errors import InvalidModel
from server.models import load_file


def test_checkpoint_with_sidecar_loads(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin", seed=4)
    loaded = load_file(path)
    assert (loaded.release_id, loaded.label) == (None, str(path))
    assert has_weights(loaded.language_model.decoder, tiny_checkpoint(seed=4).weights)


@pytest.mark.parametrize(
    ("file", "run", "name"),
    [("m_best.bin", "story", "story"), ("m_best.bin", "", "m"), ("a\x1bb.bin", "", "a\\u001bb")],
)
def test_file_is_named_by_its_run_or_itself(tmp_path: Path, file: str, run: str, name: str) -> None:
    loaded = load_file(write_tiny(tmp_path / file, name=run))
    assert (loaded.name, loaded.shape) == (name, CONFIG.name)


def test_vocabulary_file_can_be_chosen(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin")
    reversed_chars = ["<", ">", *TOKENIZER.chars[:1:-1]]
    (tmp_path / "other.json").write_text(json.dumps({"chars": reversed_chars}), encoding="utf-8")
    loaded = load_file(path, vocab=tmp_path / "other.json")
    assert loaded.language_model.tokenizer.vocab == tuple(reversed_chars)


def test_preset_without_sidecar(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin")
    (tmp_path / "m.json").unlink()
    with pytest.raises(InvalidCheckpoint, match="shape randygpt-3L-4H-116D"):
        load_file(path, preset="xs")
    with pytest.raises(InvalidCheckpoint, match="fit no preset"):
        load_file(path)


@pytest.mark.parametrize("scale", [1e20, 1e38])
def test_overflowing_weights_fail_the_self_test(tmp_path: Path, scale: float) -> None:
    healthy = tiny_checkpoint()
    weights = np.clip(healthy.weights.astype(np.float64) * scale, -3e38, 3e38).astype(np.float32)
    assert np.isfinite(weights).all()
    path = write_tiny(tmp_path / "m.bin")
    write_checkpoint(
        path, Checkpoint(header=healthy.header, config=CONFIG, weights=weights, optimizer_state=healthy.optimizer_state)
    )
    with pytest.raises(InvalidModel, match="its logits are not finite"):
        load_file(path)


def test_self_test_covers_the_last_position(tmp_path: Path) -> None:
    healthy = tiny_checkpoint()
    head = (CONFIG.vocab_size + CONFIG.block_size) * CONFIG.n_embd  # the last position ends where it begins
    healthy.weights[head - CONFIG.n_embd : head] = 3e38
    healthy.weights[head : head + CONFIG.n_embd] = 1
    path = write_tiny(tmp_path / "m.bin")
    write_checkpoint(path, healthy)
    with pytest.raises(InvalidModel, match="not finite"):
        load_file(path)


def test_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidModelFile, match=r"m\.bin"):
        load_file(path)
    with pytest.raises(CallerError, match=r"other\.bin: No such file"):
        load_file(tmp_path / "other.bin")
