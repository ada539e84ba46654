"""BPE tokenizer: training, encoding, documents and the Rust program's vocabulary."""

import json
from collections.abc import Iterable
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import CONFIG, TEXT

from randygpt.checkpoint.sidecar import Sidecar, read_sidecar, sidecar_path
from randygpt.errors import InvalidModelFile
from randygpt.model import tokenizer as tokenizer_module
from randygpt.model.tokenizer import BpeTokenizer, CharTokenizer, Tokenizer, tokenizer_from_json

SMALL = BpeTokenizer.train(TEXT, 60)


def test_ids_and_text_match_the_rust_program(golden: Path) -> None:
    tokenizer = tokenizer_from_json(json.loads((golden / "bpe2000_vocab.json").read_bytes()))
    assert tokenizer.vocab_size == 2000
    for case in json.loads((golden / "bpe2000_tokens.json").read_bytes()):
        assert tokenizer.encode(case["text"]).tolist() == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]


def twice() -> BpeTokenizer:
    """A vocabulary with both special tokens again at the end, as the Rust program learns it from a text with them."""
    special = ("<|bos|>", "<|eos|>")
    vocab, merges = [*special, *"<|beos>ha"], []
    for word in special:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            if word[:end] not in vocab[2:]:
                vocab.append(word[:end])
    return BpeTokenizer(vocab, [*dict.fromkeys(merges)])


def test_special_tokens_twice_in_a_rust_vocabulary() -> None:
    tokenizer = twice()
    again = [tokenizer.vocab.index(word, 2) for word in ("<|bos|>", "<|eos|>")]
    assert tokenizer.special_ids == {0, 1, *again}
    assert tokenizer.end_ids == {1, again[1]}
    h, a = tokenizer.vocab.index("h"), tokenizer.vocab.index("a")
    assert tokenizer.decode([0, h, again[0], a, 1, again[1]]) == "ha"
    assert np.concatenate([*tokenizer.encode_corpus("h<|eos|>a")]).tolist() == [h, again[1], a]
    assert tokenizer.encode("h<|eos|>a<|bos|>").tolist() == [h, again[1], a, again[0]]  # as there
    assert SMALL.end_ids == {1}
    assert SMALL.special_ids == {0, 1}


def test_vocabulary_json_round_trip(golden: Path) -> None:
    raw = json.loads((golden / "bpe2000_vocab.json").read_bytes())
    assert tokenizer_from_json(raw).to_json() == {"vocab": raw["vocab"], "merges": raw["merges"]}


def test_learned_vocabulary_has_the_rust_layout() -> None:
    chars = sorted(set(TEXT))
    assert SMALL.vocab[: 2 + len(chars)] == ("<|bos|>", "<|eos|>", *chars)
    assert list(SMALL.vocab[2 + len(chars) :]) == [left + right for left, right in SMALL.merges]
    assert SMALL.vocab_size == 60


def test_training_on_blocks_equals_training_on_the_whole() -> None:
    assert BpeTokenizer.train(TEXT.splitlines(keepends=True), 60).to_json() == SMALL.to_json()


def test_training_is_deterministic() -> None:
    assert BpeTokenizer.train(TEXT, 60).to_json() == SMALL.to_json()


def test_merges_never_cross_a_newline() -> None:
    learned = BpeTokenizer.train("a\nb" * 500, 50)
    assert [entry for entry in learned.vocab if "\n" in entry] == ["\n"]


def test_short_text_gives_a_smaller_vocabulary() -> None:
    assert BpeTokenizer.train("ab", 100).vocab == ("<|bos|>", "<|eos|>", "a", "b", "ab")


def test_vocabulary_smaller_than_the_alphabet_is_refused() -> None:
    with pytest.raises(
        InvalidModelFile, match="--bpe 4 is too small: a text with 3 different characters needs at least 5"
    ):
        BpeTokenizer.train("abc", 4)


@given(st.text(alphabet=sorted(set(TEXT))))
def test_known_characters_round_trip(text: str) -> None:
    assert SMALL.decode(SMALL.encode(text).tolist()) == text


@given(st.text())
def test_unknown_characters_are_dropped(text: str) -> None:
    known = "".join(char for char in text if char in SMALL.vocab)
    assert SMALL.decode(SMALL.encode(text).tolist()) == known


def test_cutting_a_long_text_changes_no_id() -> None:
    lines = "the quick fox\n" * 2500
    assert SMALL.encode(lines).tolist() == SMALL.encode("the quick fox\n").tolist() * 2500


def test_lone_surrogate_is_dropped() -> None:
    assert SMALL.decode(SMALL.encode("t\ud83dhe").tolist()) == "the"


def test_merge_with_the_lowest_id_applies_first() -> None:
    tokenizer = BpeTokenizer(["<|bos|>", "<|eos|>", "a", "b", "c", "bc", "ab"], [("a", "b"), ("b", "c")])
    assert tokenizer.encode("abc").tolist() == [2, 5]


def test_later_of_two_equal_entries_wins() -> None:
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
def test_invalid_vocabulary_is_refused(raw: object) -> None:
    with pytest.raises(InvalidModelFile):
        tokenizer_from_json(raw)


def test_both_tokenizers_round_trip_through_a_sidecar(tmp_path: Path) -> None:
    for tokenizer in (SMALL, CharTokenizer.from_text(TEXT)):
        path = sidecar_path(tmp_path / "m.bin")
        path.write_bytes(Sidecar(config=CONFIG, tokenizer=tokenizer).encode())
        read = read_sidecar(tmp_path / "m.bin")
        assert read is not None
        assert (read.tokenizer.kind, read.tokenizer.to_json()) == (tokenizer.kind, tokenizer.to_json())


def test_ids_are_within_the_vocabulary() -> None:
    ids = SMALL.encode(TEXT)
    assert ids.dtype == np.int32
    assert (ids.min() >= 2, ids.max() < SMALL.vocab_size) == (True, True)
    assert len(ids) < len(TEXT) / 2


END = "<|eos|>"


def encode_corpus(tokenizer: Tokenizer, text: Iterable[str]) -> list[int]:
    return [int(token) for token in np.concatenate(list(tokenizer.encode_corpus(text)))]


def test_eos_is_a_token_in_a_corpus_but_text_in_a_prompt() -> None:
    text = f"the fox\n{END}\nthe dog{END}{END}"
    fox, dog = SMALL.encode("the fox\n").tolist(), SMALL.encode("\nthe dog").tolist()
    assert encode_corpus(SMALL, text) == [*fox, 1, *dog, 1, 1]
    assert 1 not in SMALL.encode(text)
    assert SMALL.decode(SMALL.encode(text).tolist()) == "".join(char for char in text if char in SMALL.vocab)


def test_no_merges_are_learned_from_eos() -> None:
    plain, ended = "ab\nab\n" * 100, f"ab\n{END}ab\n" * 100
    assert BpeTokenizer.train(ended, 50).to_json() == BpeTokenizer.train(plain, 50).to_json()
    assert BpeTokenizer.train(f"a{END}b" * 100, 50).vocab == ("<|bos|>", "<|eos|>", "a", "b", "ba")


def test_eos_is_plain_text_for_the_character_tokenizer() -> None:
    text = f"ab{END}"
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.decode(encode_corpus(tokenizer, text)) == text


@given(st.lists(st.text(alphabet=sorted(set(TEXT)), max_size=60)))
def test_ids_do_not_depend_on_block_size(blocks: list[str]) -> None:
    whole = "".join(blocks)
    assert encode_corpus(SMALL, blocks) == SMALL.encode(whole).tolist()


@pytest.mark.parametrize("text", [f"abacb\ud83da{END}ba b\ncab", f"<{END}|eos|>a<|eos{END}|{END}", "abacabaéba"])
def test_any_cut_of_eos_and_unknown_characters_changes_no_id(text: str) -> None:
    entries = ["<|bos|>", END, *"ab<|eos>\u00e9", "ab", "aba", "aé"]
    tokenizer = BpeTokenizer(entries, [("a", "b"), ("ab", "a"), ("a", "é")])
    expected = [ids for part in text.split(END) for ids in (*tokenizer.encode(part).tolist(), 1)][:-1]
    for first, second in combinations_with_replacement(range(len(text) + 1), 2):
        assert encode_corpus(tokenizer, [text[:first], text[first:second], text[second:]]) == expected


def test_no_merges_are_learned_from_eos_across_blocks() -> None:
    text = f"ab{END}ab" * 2
    whole = BpeTokenizer.train(text, 50).to_json()
    for first, second in combinations_with_replacement(range(len(text) + 1), 2):
        blocks = [text[:first], text[first:second], text[second:]]
        assert set(BpeTokenizer.train(blocks, 50).vocab[:4]) == {"<|bos|>", END, "a", "b"}, blocks
    assert whole["vocab"] == ["<|bos|>", END, "a", "b", "ab", "abab"]


def test_long_line_is_cut_where_no_merge_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    line = TEXT.replace("\n", " ") * 3
    blocks = [line[start : start + 1000] for start in range(0, len(line), 1000)]
    pieces = list(SMALL.encode_corpus(blocks))
    assert len(pieces) > len(blocks) / 2
    assert np.concatenate(pieces).tolist() == SMALL.encode(line).tolist()
    monkeypatch.setattr(tokenizer_module, "_MAX_UNCUT", 2500)  # for a text with no such place
    merged = BpeTokenizer.train("aaaa", 50)
    pieces = list(merged.encode_corpus(["a" * 1001] * 9))
    assert merged.decode(np.concatenate(pieces).tolist()) == "a" * 9009
    assert len(pieces) == 4  # three pieces of three blocks each, and the empty rest


def test_merges_of_a_large_corpus_come_from_an_even_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [f"{pair}\n" * 100 for pair in ("ab", "cd", "ef", "gh")]
    warnings: list[str] = []
    assert {"ab", "cd", "ef", "gh"} <= set(BpeTokenizer.train(blocks, 50, warn=warnings.append).vocab)
    assert warnings == []
    monkeypatch.setattr(tokenizer_module, "_MAX_TRAINING_TEXT", 600)
    learned = BpeTokenizer.train(blocks, 50, warn=warnings.append)
    assert set(learned.vocab) == {"<|bos|>", END, *"abcdefgh\n", "ab", "ef"}
    assert warnings == ["learning BPE merges from 50.0% of the text, sampled evenly"]


def test_very_long_line_is_learned_in_pieces() -> None:
    """Learned as one word, it would take minutes."""
    assert BpeTokenizer.train("the fox " * 100_000, 20).vocab_size == 20
