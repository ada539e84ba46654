"""Text to token ids and back. No I/O, no torch.

Two kinds, as in the Rust program. Characters: id 0 is `<` (begin), 1 is `>` (end), then every character of the corpus,
sorted. Byte pairs (BPE): `<|bos|>`, `<|eos|>`, the sorted characters, then one entry a merge; merges never cross a
newline. Either way a character that the vocabulary lacks is dropped.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from randygpt.config import MAX_VOCAB
from randygpt.errors import InvalidModelFile

if TYPE_CHECKING:
    import tokenizers

BOS_ID = 0
EOS_ID = 1
_CODE_POINTS = 0x110000
_SPECIAL = ("<|bos|>", "<|eos|>")
_LINES_AT_ONCE = 1000  # of a text to encode; a newline stands alone, so cutting behind one changes no id


class Tokenizer(Protocol):
    """What the rest of the program asks of a tokenizer."""

    @property
    def kind(self) -> Literal["char", "bpe"]:
        """How config.json names it."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Ids (T,) of a text; characters that are not in the vocabulary are dropped."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; begin and end have none."""

    def to_json(self) -> dict[str, object]:
        """The contents of a release's vocab.json."""


def tokenizer_from_json(raw: object) -> Tokenizer:
    """The tokenizer in a decoded vocab.json: `{"chars"}`, or `{"vocab", "merges"}`; raises InvalidModelFile."""
    if isinstance(raw, Mapping) and "vocab" in raw:
        return BpeTokenizer.from_json(raw)
    return CharTokenizer.from_json(raw)


class CharTokenizer:
    """One token a character. Raises InvalidModelFile when made from something else than characters."""

    kind: Literal["char", "bpe"] = "char"

    def __init__(self, chars: Sequence[object]) -> None:
        if not EOS_ID < len(chars) <= MAX_VOCAB:
            raise InvalidModelFile(f"a vocabulary has 2 to {MAX_VOCAB} entries, not {len(chars)}")
        if not all(isinstance(char, str) and len(char) == 1 for char in chars):
            raise InvalidModelFile("an entry of the vocabulary is not a single character")
        if any(_is_surrogate(char) for char in chars):
            raise InvalidModelFile("an entry of the vocabulary is half of a surrogate pair, not a character")
        self.chars = tuple(str(char) for char in chars)
        self._ids = np.full(_CODE_POINTS, -1, dtype=np.int32)
        for token, char in enumerate(self.chars):  # a character may appear twice: the later id wins
            self._ids[ord(char)] = token

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The vocabulary of a corpus."""
        return cls(["<", ">", *sorted(set(text))])

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """The tokenizer in a decoded vocab.json; raises InvalidModelFile."""
        chars = raw.get("chars") if isinstance(raw, Mapping) else None
        if not isinstance(chars, list):
            raise InvalidModelFile('the vocabulary has no list "chars"')
        return cls(chars)

    def to_json(self) -> dict[str, object]:
        """The contents of a release's vocab.json."""
        return {"chars": list(self.chars)}

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return len(self.chars)

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Ids (T,) of a text; characters that are not in the vocabulary are dropped."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        ids: npt.NDArray[np.int32] = self._ids[points]
        return ids[ids >= 0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; begin and end have none."""
        return "".join(self.chars[token] for token in ids if token not in {BOS_ID, EOS_ID})


class BpeTokenizer:
    """One token for each entry of a learned vocabulary. Raises InvalidModelFile when the merges do not fit it."""

    kind: Literal["char", "bpe"] = "bpe"

    def __init__(self, vocab: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        if not EOS_ID < len(vocab) <= MAX_VOCAB:
            raise InvalidModelFile(f"a vocabulary has 2 to {MAX_VOCAB} entries, not {len(vocab)}")
        if any(_is_surrogate(char) for entry in vocab for char in entry):
            raise InvalidModelFile("an entry of the vocabulary holds half of a surrogate pair")
        self.vocab = tuple(vocab)
        self.merges = tuple(merges)
        ids = {entry: token for token, entry in enumerate(vocab)}  # an entry may be there twice: the later id wins
        for left, right in merges:
            if left not in ids or right not in ids or left + right not in ids:
                raise InvalidModelFile(f"a merge of {left!r} and {right!r} does not fit the vocabulary")
        self._ids = ids

    @classmethod
    def train(cls, text: str, vocab_size: int) -> Self:
        """Learn a vocabulary of `vocab_size` entries (fewer if the text has no more to merge) from a corpus."""
        import tokenizers  # noqa: PLC0415 (a tenth of a second)

        least = len(_SPECIAL) + len(set(text))
        if vocab_size < least:
            raise InvalidModelFile(
                f"this text has {least - len(_SPECIAL)} characters: {least} is the smallest vocabulary"
            )
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        learner.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(_SPECIAL), show_progress=False
        )
        learner.train_from_iterator(text.splitlines(keepends=True), trainer)
        model = json.loads(learner.to_str())["model"]
        return cls(sorted(model["vocab"], key=model["vocab"].get), [(left, right) for left, right in model["merges"]])

    @classmethod
    def from_json(cls, raw: Mapping[str, object]) -> Self:
        """The tokenizer in a decoded vocab.json; raises InvalidModelFile."""
        vocab, merges = raw.get("vocab"), raw.get("merges")
        if not isinstance(vocab, list) or not all(isinstance(entry, str) for entry in vocab):
            raise InvalidModelFile('the vocabulary\'s "vocab" is not a list of text')
        if not isinstance(merges, list) or not all(_is_pair(pair) for pair in merges):
            raise InvalidModelFile('the vocabulary\'s "merges" is not a list of pairs of text')
        return cls(vocab, [(left, right) for left, right in merges])

    def to_json(self) -> dict[str, object]:
        """The contents of a release's vocab.json."""
        return {"vocab": list(self.vocab), "merges": [list(pair) for pair in self.merges]}

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return len(self.vocab)

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Ids (T,) of a text; characters that are not in the vocabulary are dropped."""
        lines = text.encode("utf-8", "ignore").decode().split("\n")
        starts = range(0, len(lines), _LINES_AT_ONCE)
        parts = ["\n".join(lines[start : start + _LINES_AT_ONCE]) for start in starts]
        parts[:-1] = [f"{part}\n" for part in parts[:-1]]
        encoded = self._encoder.encode_batch_fast(parts, add_special_tokens=False)
        return np.concatenate([np.asarray(part.ids, dtype=np.int32) for part in encoded])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; begin and end have none."""
        return "".join(self.vocab[token] for token in ids if token not in {BOS_ID, EOS_ID})

    @cached_property
    def _encoder(self) -> "tokenizers.Tokenizer":
        import tokenizers  # noqa: PLC0415 (a tenth of a second)

        by_priority = sorted(self.merges, key=lambda pair: self._ids["".join(pair)])
        encoder = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=self._ids, merges=by_priority))
        encoder.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
        return encoder


def _is_pair(raw: object) -> bool:
    return isinstance(raw, list) and len(raw) == 2 and all(isinstance(part, str) for part in raw)  # noqa: PLR2004


def _is_surrogate(char: object) -> bool:
    return isinstance(char, str) and "\ud800" <= char <= "\udfff"
