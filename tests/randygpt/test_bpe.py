"""Byte-pair tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import CONFIG, TEXT

from randygpt.errors import InvalidModelFile
from randygpt.sidecar import Sidecar, read_sidecar, sidecar_path
from randygpt.tokenizer import BpeTokenizer, CharTokenizer, tokenizer_from_json

SMALL = BpeTokenizer.train(TEXT, 60)


def test_the_ids_and_texts_are_those_of_the_rust_program(golden: Path) -> None:
    tokenizer = tokenizer_from_json(json.loads((golden / "bpe2000_vocab.json").read_bytes()))
    assert tokenizer.vocab_size == 2000
    for case in json.loads((golden / "bpe2000_tokens.json").read_bytes()):
        assert tokenizer.encode(case["text"]).tolist() == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]


def test_a_vocabulary_goes_both_ways_unchanged(golden: Path) -> None:
    raw = json.loads((golden / "bpe2000_vocab.json").read_bytes())
    assert tokenizer_from_json(raw).to_json() == {"vocab": raw["vocab"], "merges": raw["merges"]}


def test_a_learned_vocabulary_is_laid_out_like_the_rust_programs() -> None:
    chars = sorted(set(TEXT))
    assert SMALL.vocab[: 2 + len(chars)] == ("<|bos|>", "<|eos|>", *chars)
    assert list(SMALL.vocab[2 + len(chars) :]) == [left + right for left, right in SMALL.merges]
    assert SMALL.vocab_size == 60


def test_learning_the_same_twice_gives_the_same() -> None:
    assert BpeTokenizer.train(TEXT, 60).to_json() == SMALL.to_json()


def test_merges_never_cross_a_newline() -> None:
    learned = BpeTokenizer.train("a\nb" * 500, 50)
    assert [entry for entry in learned.vocab if "\n" in entry] == ["\n"]


def test_a_text_with_nothing_left_to_merge_gives_a_smaller_vocabulary() -> None:
    assert BpeTokenizer.train("ab", 100).vocab == ("<|bos|>", "<|eos|>", "a", "b", "ab")


def test_a_vocabulary_smaller_than_the_characters_is_refused() -> None:
    with pytest.raises(InvalidModelFile, match="5 is the smallest"):
        BpeTokenizer.train("abc", 4)


@given(st.text(alphabet=sorted(set(TEXT))))
def test_what_it_knows_comes_back(text: str) -> None:
    assert SMALL.decode(SMALL.encode(text).tolist()) == text


@given(st.text())
def test_what_it_does_not_know_is_dropped(text: str) -> None:
    known = "".join(char for char in text if char in SMALL.vocab)
    assert SMALL.decode(SMALL.encode(text).tolist()) == known


def test_a_long_text_is_cut_without_a_trace() -> None:
    lines = "the quick fox\n" * 2500
    assert SMALL.encode(lines).tolist() == SMALL.encode("the quick fox\n").tolist() * 2500


def test_half_a_surrogate_pair_is_dropped() -> None:
    assert SMALL.decode(SMALL.encode("t\ud83dhe").tolist()) == "the"


def test_the_lowest_merged_id_goes_first() -> None:
    tokenizer = BpeTokenizer(["<|bos|>", "<|eos|>", "a", "b", "c", "bc", "ab"], [("a", "b"), ("b", "c")])
    assert tokenizer.encode("abc").tolist() == [2, 5]


def test_of_an_entry_that_is_there_twice_the_later_id_wins() -> None:
    tokenizer = BpeTokenizer(["<|bos|>", "<|eos|>", "a", "b", "ab", "ab"], [("a", "b")])
    assert tokenizer.encode("ab").tolist() == [5]
    assert tokenizer.decode([4, 5]) == "abab"


@pytest.mark.parametrize(
    "raw",
    [
        {"vocab": "ab", "merges": []},
        {"vocab": ["a", "b", 3], "merges": []},
        {"vocab": ["a", "b"]},
        {"vocab": ["a", "b"], "merges": [["a"]]},
        {"vocab": ["a", "b"], "merges": [["a", "b"]]},
        {"vocab": ["a", "ab"], "merges": [["a", "b"]]},
        {"vocab": ["a"], "merges": []},
        {"vocab": ["a", "\ud800"], "merges": []},
        {},
        [],
        None,
    ],
)
def test_a_wrong_vocabulary_is_refused(raw: object) -> None:
    with pytest.raises(InvalidModelFile):
        tokenizer_from_json(raw)


def test_either_kind_goes_through_the_json_beside_a_checkpoint(tmp_path: Path) -> None:

    for tokenizer in (SMALL, CharTokenizer.from_text(TEXT)):
        path = sidecar_path(tmp_path / "m.bin")
        Sidecar(config=CONFIG, tokenizer=tokenizer).write(path)
        read = read_sidecar(tmp_path / "m.bin")
        assert read is not None
        assert (read.tokenizer.kind, read.tokenizer.to_json()) == (tokenizer.kind, tokenizer.to_json())


def test_ids_fit_the_vocabulary() -> None:
    ids = SMALL.encode(TEXT)
    assert ids.dtype == np.int32
    assert (ids.min() >= 2, ids.max() < SMALL.vocab_size) == (True, True)
    assert len(ids) < len(TEXT) / 2
