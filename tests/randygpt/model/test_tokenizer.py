"""Character tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from randygpt.errors import InvalidModelFile
from randygpt.model.config import MAX_VOCAB
from randygpt.model.tokenizer import BOS_ID, EOS_ID, CharTokenizer

CORPUS = "banana ?\n"
TOKENIZER = CharTokenizer.from_text(CORPUS)


def test_vocabulary_is_begin_end_then_sorted_characters() -> None:
    assert (BOS_ID, EOS_ID) == (0, 1)
    assert TOKENIZER.chars == ("<", ">", "\n", " ", "?", "a", "b", "n")
    assert TOKENIZER.vocab_size == 8


def test_encode_and_decode() -> None:
    ids = TOKENIZER.encode("ban\n")
    assert ids.tolist() == [6, 5, 7, 2]
    assert TOKENIZER.decode(ids.tolist()) == "ban\n"


def test_begin_and_end_decode_to_nothing() -> None:
    assert TOKENIZER.decode([BOS_ID, 5, EOS_ID, 5]) == "aa"
    assert TOKENIZER.decode([]) == ""


def test_unknown_characters_are_dropped() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("Xb€a\U0001f600n\x00").tolist()) == "ban"
    assert TOKENIZER.encode("").tolist() == TOKENIZER.encode("XYZ").tolist() == []


def test_later_of_two_equal_characters_wins() -> None:
    tokenizer = CharTokenizer.from_text("a<b>")
    assert tokenizer.chars == ("<", ">", "<", ">", "a", "b")
    assert tokenizer.encode("<a>").tolist() == [2, 4, 3]
    assert tokenizer.decode([2, 4, 3]) == "<a>"


def test_astral_characters() -> None:
    text = "a\U0001f600\U0010ffffb\uffff"
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.encode(text).tolist() == [2, 5, 6, 3, 4]
    assert tokenizer.decode([2, 5, 6, 3, 4]) == text


def test_lone_surrogate_is_dropped() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("b\ud83da\udc00n").tolist()) == "ban"


@given(st.text(alphabet=sorted(set(CORPUS))))
def test_known_characters_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).tolist()) == text


@given(st.text())
def test_any_corpus_round_trips(corpus: str) -> None:
    tokenizer = CharTokenizer.from_text(corpus)
    assert tokenizer.decode(tokenizer.encode(corpus).tolist()) == corpus


@given(st.text(alphabet=st.characters()))
def test_any_text_gives_ids_within_the_vocabulary(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert len(ids) <= len(text)
    assert all(0 <= token < TOKENIZER.vocab_size for token in ids.tolist())


def test_json_round_trip() -> None:
    assert TOKENIZER.to_json() == {"chars": ["<", ">", "\n", " ", "?", "a", "b", "n"]}
    assert CharTokenizer.from_json(TOKENIZER.to_json()).chars == TOKENIZER.chars


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "chars",
        {},
        {"chars": None},
        {"chars": "abc"},
        {"chars": {"a": 0, "b": 1}},
        {"chars": []},
        {"chars": ["a"]},
        {"chars": ["a", "bc"]},
        {"chars": ["a", ""]},
        {"chars": ["a", 1]},
        {"chars": ["a", None]},
        {"chars": ["a"] * (MAX_VOCAB + 1)},
        {"vocab": ["a", "b"], "merges": [["a", "b"]]},
    ],
    ids=lambda raw: str(raw)[:40],
)
def test_invalid_vocabulary_json_is_refused(raw: object) -> None:
    with pytest.raises(InvalidModelFile):
        CharTokenizer.from_json(raw)


def test_lone_surrogate_is_no_entry() -> None:
    """It has no UTF-8 encoding, so no file and no reply can contain it."""
    with pytest.raises(InvalidModelFile):
        CharTokenizer.from_json({"chars": ["<", ">", "\ud83d"]})
