"""Training text: where it comes from, and which windows are cut from it."""

from collections import Counter

import pytest
import torch

from randygpt.errors import InvalidModelFile
from randygpt.model.tokenizer import BpeTokenizer, CharTokenizer
from randygpt.training.data import Corpus

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
    with pytest.raises(InvalidModelFile, match=f"text has {length} tokens: training and validation need about 90"):
        numbered(length)


@pytest.mark.parametrize("part", [slice(0, 4), slice(4, 16), slice(15, 16), slice(3, 12, 2), slice(0, 0)], ids=str)
def test_a_part_of_a_batch_is_cut_out_of_the_whole(part: slice) -> None:
    corpus = numbered(1000)
    whole = corpus.batch(seed=1, iteration=5, batch_size=16)
    shared = corpus.batch(seed=1, iteration=5, batch_size=16, part=part)
    assert torch.equal(shared[0], whole[0][part])
    assert torch.equal(shared[1], whole[1][part])


def documents(*lengths: int) -> Corpus:
    """Documents of numbered characters, an end behind each; the last stands for what validates."""
    chars = [chr(FIRST_CHARACTER + at) for at in range(max(lengths))]
    text = "".join("".join(chars[:length]) + "<|eos|>" for length in lengths)
    return Corpus(text, BpeTokenizer(["<|bos|>", "<|eos|>", *chars], []), BLOCK)


def drawn(corpus: Corpus, batches: int) -> Counter[tuple[int, ...]]:
    """The windows of some batches, each with its last target, and how often each was drawn."""
    parts = [corpus.batch(seed=1, iteration=iteration, batch_size=64) for iteration in range(batches)]
    return Counter(window for part in parts for window in both(*part))


def both(inputs: torch.Tensor, targets: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(window) for window in torch.cat([inputs, targets[:, -1:]], dim=1).tolist()]


def run(last: int) -> tuple[int, ...]:
    """The window whose last token is that of the character at position `last`."""
    return tuple(range(2 + last - BLOCK, 2 + last + 1))


def test_windows_stay_in_their_document_and_each_is_as_likely() -> None:
    corpus = documents(20, 3, 12, BLOCK, BLOCK - 1, 200)  # 256 tokens, of which 230 train: 175 of the last document
    often = drawn(corpus, 400)
    ends = {(*run(length - 1)[1:], 1): 1 for length in (20, 12, BLOCK)}
    inside = {run(last): (last < 20) + (last < 12) + 1 for last in range(BLOCK, 175)}
    expected = inside | ends
    assert set(often) == set(expected)
    share = 400 * 64 / sum(expected.values())
    assert all(0.6 * share < often[window] / times < 1.5 * share for window, times in expected.items())


def test_validation_windows_stay_in_their_document() -> None:
    windows = both(*documents(2000, 5, 100, 9, 80).validation(50))
    assert not any(1 in window[:-1] for window in windows)
    assert windows[-1] == (*run(79)[1:], 1)
    assert len(windows) == 50


@pytest.mark.parametrize("lengths", [(BLOCK - 1,) * 100, (3000, 3000)], ids=["each is short", "ends are rare"])
def test_there_is_no_rule_if_it_would_leave_nothing_or_hardly_matter(lengths: tuple[int, ...]) -> None:
    corpus = documents(*lengths)
    assert any(1 in window[:-1] for window in drawn(corpus, 100))
    assert len(both(*corpus.validation(5))) == 5


def test_what_counts_is_tokens_and_not_characters() -> None:
    with pytest.raises(InvalidModelFile, match="text has 0 tokens"):
        Corpus("x" * 1000, CharTokenizer.from_text("abc"), BLOCK)
