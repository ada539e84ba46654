"""Batches of a corpus: which sequences are drawn, and from where."""

from collections import Counter

import pytest
import torch

from randygpt.errors import CallerError, InvalidModelFile
from randygpt.model.tokenizer import BpeTokenizer, CharTokenizer
from randygpt.training.data import Corpus, check_vocabulary

FIRST_CHARACTER = 0x4E00
BLOCK = 8


def numbered(length: int, block_size: int = BLOCK) -> Corpus:
    """Return a corpus whose token at position i has id i + 2, so that a sequence shows its position."""
    text = "".join(chr(FIRST_CHARACTER + position) for position in range(length))
    return Corpus(text, CharTokenizer.from_text(text), block_size)


def test_equal_seed_and_iteration_give_equal_batches() -> None:
    one = numbered(1000).batch(seed=1, iteration=5, batch_size=16)
    other = numbered(1000).batch(seed=1, iteration=5, batch_size=16)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize(("seed", "iteration"), [(2, 5), (1, 6), (5, 1)])
def test_other_seed_or_iteration_gives_other_batches(seed: int, iteration: int) -> None:
    corpus = numbered(1000)
    inputs, _ = corpus.batch(seed=1, iteration=5, batch_size=16)
    assert not torch.equal(corpus.batch(seed=seed, iteration=iteration, batch_size=16)[0], inputs)


def test_targets_are_inputs_shifted_by_one() -> None:
    inputs, targets = numbered(1000).batch(seed=1, iteration=0, batch_size=16)
    assert inputs.shape == targets.shape == (16, BLOCK)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(BLOCK))
    assert torch.equal(targets, inputs + 1)


def test_training_covers_exactly_the_first_nine_tenths() -> None:
    corpus = numbered(100)
    batches = [corpus.batch(seed=1, iteration=iteration, batch_size=64) for iteration in range(40)]
    seen = torch.cat([torch.cat(batch).flatten() for batch in batches]).unique()
    assert (seen - 2).tolist() == list(range(90))


def test_validation_covers_exactly_the_last_tenth() -> None:
    corpus = numbered(1000)
    inputs, targets = corpus.validation(50)
    assert inputs.shape == targets.shape == (50, BLOCK)
    assert torch.equal(targets, inputs + 1)
    assert (inputs.min().item() - 2, targets.max().item() - 2) == (900, 999)
    assert len(inputs[:, 0].unique()) == 50
    assert torch.equal(corpus.validation(50)[0], inputs)


def test_short_text_repeats_validation_sequences() -> None:
    inputs, targets = numbered(100).validation(50)
    assert inputs.shape == (50, BLOCK)
    assert (inputs.min().item() - 2, targets.max().item() - 2) == (90, 99)


def test_shortest_usable_text() -> None:
    corpus = numbered(90)
    _, targets = corpus.validation(3)
    assert targets[:, -1].tolist() == [91, 91, 91]
    assert corpus.batch(seed=1, iteration=0, batch_size=4)[0].max() < 2 + 81


@pytest.mark.parametrize("length", [0, 1, BLOCK, 80])
def test_text_too_short_is_refused(length: int) -> None:
    with pytest.raises(InvalidModelFile, match=f"text has {length} tokens: training and validation need about 90"):
        numbered(length)


@pytest.mark.parametrize("part", [slice(0, 4), slice(4, 16), slice(15, 16), slice(3, 12, 2), slice(0, 0)], ids=str)
def test_part_of_a_batch_equals_the_slice_of_the_whole(part: slice) -> None:
    corpus = numbered(1000)
    whole = corpus.batch(seed=1, iteration=5, batch_size=16)
    shared = corpus.batch(seed=1, iteration=5, batch_size=16, part=part)
    assert torch.equal(shared[0], whole[0][part])
    assert torch.equal(shared[1], whole[1][part])


def documents(*lengths: int) -> Corpus:
    """Return documents of numbered characters, each with an end token; the last one is for validation."""
    chars = [chr(FIRST_CHARACTER + at) for at in range(max(lengths))]
    text = "".join("".join(chars[:length]) + "<|eos|>" for length in lengths)
    return Corpus(text, BpeTokenizer(["<|bos|>", "<|eos|>", *chars], []), BLOCK)


def drawn(corpus: Corpus, batches: int) -> Counter[tuple[int, ...]]:
    """Count the sequences, with their last target, in some batches."""
    parts = [corpus.batch(seed=1, iteration=iteration, batch_size=64) for iteration in range(batches)]
    return Counter(sequence for part in parts for sequence in both(*part))


def both(inputs: torch.Tensor, targets: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(sequence) for sequence in torch.cat([inputs, targets[:, -1:]], dim=1).tolist()]


def run(last: int) -> tuple[int, ...]:
    """Return the sequence that ends with the character at position `last`."""
    return tuple(range(2 + last - BLOCK, 2 + last + 1))


def test_training_sequences_stay_within_documents_uniformly() -> None:
    corpus = documents(20, 3, 12, BLOCK, BLOCK - 1, 200)  # 256 tokens, of which 230 train: 175 of the last document
    often = drawn(corpus, 400)
    ends = {(*run(length - 1)[1:], 1): 1 for length in (20, 12, BLOCK)}
    inside = {run(last): (last < 20) + (last < 12) + 1 for last in range(BLOCK, 175)}
    expected = inside | ends
    assert set(often) == set(expected)
    share = 400 * 64 / sum(expected.values())
    assert all(0.6 * share < often[sequence] / times < 1.5 * share for sequence, times in expected.items())


def test_validation_sequences_stay_within_documents() -> None:
    sequences = both(*documents(2000, 5, 100, 9, 80).validation(50))
    assert not any(1 in sequence[:-1] for sequence in sequences)
    assert sequences[-1] == (*run(79)[1:], 1)
    assert len(sequences) == 50


@pytest.mark.parametrize("lengths", [(BLOCK - 1,) * 100, (3000, 3000)], ids=["short documents", "few document ends"])
def test_document_rule_is_dropped_when_useless(lengths: tuple[int, ...]) -> None:
    corpus = documents(*lengths)
    assert any(1 in sequence[:-1] for sequence in drawn(corpus, 100))
    assert len(both(*corpus.validation(5))) == 5


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_dropped_characters_are_reported_or_refused(kind: str) -> None:
    known = CharTokenizer.from_text("ab\n") if kind == "char" else BpeTokenizer(["<|bos|>", "<|eos|>", *"ab\n"], [])
    said: list[str] = []
    check_vocabulary("ab\n" * 50, known, drop_unknown=False, warn=pytest.fail)
    check_vocabulary("aébb" * 50 + "a", known, drop_unknown=True, warn=said.append)
    check_vocabulary("aébbb" * 50, known, drop_unknown=False, warn=said.append)
    assert said == [
        "text: 50 of 201 characters (24.9%) are not in the vocabulary and are dropped",
        "text: 50 of 250 characters (20.0%) are not in the vocabulary and are dropped",
    ]
    with pytest.raises(CallerError, match=r"text: 50 of 201 .* to train on the rest, pass --drop-unknown"):
        check_vocabulary("aébb" * 50 + "a", known, drop_unknown=False, warn=pytest.fail)


def test_document_ends_do_not_count_as_dropped() -> None:
    known = BpeTokenizer(["<|bos|>", "<|eos|>", "a"], [])
    check_vocabulary("aaaa<|eos|>aaaa", known, drop_unknown=False, warn=pytest.fail)


def test_minimum_length_counts_tokens() -> None:
    with pytest.raises(InvalidModelFile, match="text has 0 tokens"):
        Corpus("x" * 1000, CharTokenizer.from_text("abc"), BLOCK)
