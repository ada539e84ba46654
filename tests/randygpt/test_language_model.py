"""Python API of a model: loading, logits and text."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.command import TIMEOUT_S
from support.models import CONFIG, TOKENIZER, has_weights, side_files, tiny_checkpoint, write_tiny

import randygpt
from randygpt.checkpoint.rgpt import write_checkpoint
from randygpt.errors import CallerError, InvalidCheckpoint, InvalidModelFile
from randygpt.language_model import LanguageModel
from randygpt.model.gpt import GPT
from randygpt.model.sampling import Sampling, generate
from randygpt.model.tokenizer import CharTokenizer

BLOCK = CONFIG.block_size


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return randygpt.load(write_tiny(tmp_path / "m.bin"))


def put_release(folder: Path, checkpoint: str = "checkpoint.bin", *, with_optimizer: bool = True) -> Path:
    """Write a folder as the store lays it out."""
    folder.mkdir()
    write_checkpoint(folder / checkpoint, tiny_checkpoint(with_optimizer=with_optimizer))
    for name, data in side_files().items():
        (folder / name).write_bytes(data)
    (folder / "release.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", [str, Path])
def test_load_a_file(tmp_path: Path, kind: type) -> None:
    path = write_tiny(tmp_path / "m.bin", seed=4)
    model = randygpt.load(kind(path))
    assert has_weights(model.decoder, tiny_checkpoint(seed=4).weights)
    assert (model.config, model.tokenizer.vocab) == (CONFIG, TOKENIZER.chars)


@pytest.mark.parametrize("checkpoint", ["checkpoint.bin", "story_best.bin"])
def test_load_a_release_folder(tmp_path: Path, checkpoint: str) -> None:
    model = randygpt.load(put_release(tmp_path / "release", checkpoint, with_optimizer=False))
    assert has_weights(model.decoder, tiny_checkpoint().weights)
    assert model.tokenizer.vocab == TOKENIZER.chars


@pytest.mark.parametrize("names", [[], ["a.bin", "b.bin"]])
def test_folder_needs_exactly_one_checkpoint(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write_tiny(tmp_path / name)
    with pytest.raises(InvalidModelFile, match=f"contains {len(names)} checkpoints"):
        randygpt.load(tmp_path)


def test_model_and_vocabulary_must_have_equal_sizes(model: LanguageModel) -> None:
    with pytest.raises(InvalidModelFile, match="the model has 31 tokens, the vocabulary 2"):
        replace(model, tokenizer=CharTokenizer("ab"))


def test_model_without_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = put_release(tmp_path / "release")
    (folder / "vocab.json").unlink()
    with pytest.raises(InvalidModelFile, match=r"checkpoint\.bin has no vocabulary"):
        randygpt.load(folder)


def test_invalid_or_missing_file(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidCheckpoint, match=r"m\.bin"):
        randygpt.load(path)
    with pytest.raises(CallerError, match=r"other\.bin: No such file"):
        randygpt.load(tmp_path / "other.bin")


def test_logits(model: LanguageModel) -> None:
    ids = [[2, 3, 4], [5, 6, 7]]
    logits = model.logits(ids)
    assert (logits.shape, logits.dtype) == ((2, 3, CONFIG.vocab_size), torch.float32)
    torch.testing.assert_close(logits, GPT.initialize(CONFIG, seed=0)(torch.tensor(ids)).detach(), rtol=0, atol=1e-5)
    assert torch.equal(model.logits(torch.tensor(ids, dtype=torch.int32)), logits)
    assert not logits.requires_grad


@pytest.mark.parametrize(
    "ids",
    [
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(1, 2, 3, dtype=torch.int64),
        torch.zeros(1, 0, dtype=torch.int64),
        torch.zeros(0, 3, dtype=torch.int64),
        torch.zeros(1, BLOCK + 1, dtype=torch.int64),
        torch.zeros(1, 3),
        [[]],
        [[0, -1]],
        [[0, CONFIG.vocab_size]],
        [[0, 1.5]],
        [[0, 1], [0]],
    ],
    ids=lambda ids: str(tuple(ids.shape) if isinstance(ids, torch.Tensor) else ids),
)
def test_invalid_ids_are_refused(model: LanguageModel, ids: torch.Tensor) -> None:
    with pytest.raises(CallerError, match="ids must"):
        model.logits(ids)


def test_full_context_and_largest_id(model: LanguageModel) -> None:
    assert model.logits(torch.full((1, BLOCK), CONFIG.vocab_size - 1)).isfinite().all()


def test_completion_excludes_the_prompt(model: LanguageModel) -> None:
    prompt = "the quick brown"
    sampling = Sampling(max_tokens=30, temperature=1.0, seed=1)
    ids = list(generate(model.decoder, TOKENIZER.encode(prompt).tolist(), sampling))
    text = model.generate(prompt, max_tokens=30, temperature=1.0, seed=1)
    assert text == TOKENIZER.decode(ids)
    assert not text.startswith(prompt)
    assert 0 < len(text) <= 30


def test_equal_seeds_give_equal_text(model: LanguageModel) -> None:
    texts = {model.generate("fox", max_tokens=20, temperature=1.0, seed=seed) for seed in (1, 1, 1)}
    assert len(texts) == 1
    assert model.generate("fox", max_tokens=20, temperature=1.0, seed=2) not in texts


def test_every_option_reaches_the_sampling(model: LanguageModel) -> None:
    greedy = model.generate("fox", max_tokens=20, temperature=0)
    assert model.generate("fox", max_tokens=20, top_k=1) == greedy
    assert model.generate("fox", max_tokens=20, top_p=1e-6) == greedy
    assert model.generate("fox", max_tokens=20, min_p=1) == greedy
    assert model.generate("fox", max_tokens=20, temperature=0, repeat_penalty=2) != greedy
    with pytest.raises(CallerError, match="temperature"):
        model.generate("fox", temperature=float("nan"))


@pytest.mark.parametrize(
    "modules",
    [
        "randygpt",
        "randygpt.user.home, randygpt.checkpoint.sidecar, randygpt.checkpoint.header, randygpt.model.tokenizer",
        "randygpt.cli.main",
    ],
)
def test_importing_the_package_imports_no_torch(modules: str) -> None:
    code = f"import sys, {modules}; print(callable(randygpt.load), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    assert done.stdout.split() == ["True", "False"]


def test_every_public_name_exists() -> None:
    assert all(hasattr(randygpt, name) for name in randygpt.__all__)
    assert set(randygpt.__all__) <= set(dir(randygpt))
