"""Training text: where it comes from, and which windows are cut from it."""

from pathlib import Path

import pytest
import torch

from randygpt.data import Corpus, read_text
from randygpt.errors import InvalidModelFile
from randygpt.tokenizer import CharTokenizer

FIRST_CHARACTER = 0x4E00
BLOCK = 8


def numbered(length: int, block_size: int = BLOCK) -> Corpus:
    """A text whose token at position i has id i + 2, so that a window shows where it was cut."""
    text = "".join(chr(FIRST_CHARACTER + position) for position in range(length))
    return Corpus(text, CharTokenizer.from_text(text), block_size)


def test_the_same_seed_and_iteration_give_the_same_windows() -> None:
    one = numbered(1000).batch(seed=1, iteration=5, batch_size=16)
    other = numbered(1000).batch(seed=1, iteration=5, batch_size=16)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize(("seed", "iteration"), [(2, 5), (1, 6), (5, 1)])
def test_another_seed_or_iteration_gives_other_windows(seed: int, iteration: int) -> None:
    corpus = numbered(1000)
    inputs, _ = corpus.batch(seed=1, iteration=5, batch_size=16)
    assert not torch.equal(corpus.batch(seed=seed, iteration=iteration, batch_size=16)[0], inputs)


def test_windows_are_runs_and_targets_are_one_further() -> None:
    inputs, targets = numbered(1000).batch(seed=1, iteration=0, batch_size=16)
    assert inputs.shape == targets.shape == (16, BLOCK)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(BLOCK))
    assert torch.equal(targets, inputs + 1)


def test_training_uses_all_of_the_first_nine_tenths_and_nothing_else() -> None:
    corpus = numbered(100)
    batches = [corpus.batch(seed=1, iteration=iteration, batch_size=64) for iteration in range(40)]
    seen = torch.cat([torch.cat(batch).flatten() for batch in batches]).unique()
    assert (seen - 2).tolist() == list(range(90))


def test_validation_spans_the_last_tenth_and_nothing_else() -> None:
    corpus = numbered(1000)
    inputs, targets = corpus.validation(50)
    assert inputs.shape == targets.shape == (50, BLOCK)
    assert torch.equal(targets, inputs + 1)
    assert (inputs.min().item() - 2, targets.max().item() - 2) == (900, 999)
    assert len(inputs[:, 0].unique()) == 50
    assert torch.equal(corpus.validation(50)[0], inputs)


def test_a_short_text_repeats_its_validation_windows() -> None:
    inputs, targets = numbered(100).validation(50)
    assert inputs.shape == (50, BLOCK)
    assert (inputs.min().item() - 2, targets.max().item() - 2) == (90, 99)


def test_the_shortest_text_there_may_be() -> None:
    corpus = numbered(90)
    _, targets = corpus.validation(3)
    assert targets[:, -1].tolist() == [91, 91, 91]
    assert corpus.batch(seed=1, iteration=0, batch_size=4)[0].max() < 2 + 81


@pytest.mark.parametrize("length", [0, 1, BLOCK, 80])
def test_a_text_too_short_to_train_and_validate(length: int) -> None:
    with pytest.raises(InvalidModelFile, match=f"has {length} tokens; about 90 are needed"):
        numbered(length)


def test_what_counts_is_tokens_and_not_characters() -> None:
    with pytest.raises(InvalidModelFile, match="has 0 tokens"):
        Corpus("x" * 1000, CharTokenizer.from_text("abc"), BLOCK)


def test_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes("né\r\n\u2028".encode())
    assert read_text(path) == ("né\r\n\u2028", str(path))


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(b"abc\xff")
    with pytest.raises(InvalidModelFile, match=r"story\.txt: not UTF-8 text: byte 3"):
        read_text(path)


def test_a_text_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "story.txt")


def test_without_a_file_the_train_txt_of_the_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.txt").write_text("mine", encoding="utf-8")
    Path("other.txt").write_text("other", encoding="utf-8")
    assert read_text(None) == ("mine", "train.txt")
    assert read_text(Path("other.txt")) == ("other", "other.txt")


def test_without_any_file_there_is_a_built_in_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, source = read_text(None)
    assert len(text) > 400_000
    assert "built in" in source
    Corpus(text, CharTokenizer.from_text(text), 256)
