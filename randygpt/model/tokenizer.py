"""Text to token ids and back. No I/O, no torch.

Two kinds, as in the Rust program. Characters: id 0 is `<` (begin), 1 is `>` (end), then every character of the corpus,
sorted. Byte pairs (BPE): `<|bos|>`, `<|eos|>`, the sorted characters, then one entry a merge; merges never cross a
newline. Either way a character that the vocabulary lacks is dropped.

A prompt is plain text. In a training text the words `<|eos|>` end a document where tokens are byte pairs: there they
are id 1, and nothing is learned from them.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from randygpt.errors import InvalidModelFile
from randygpt.model import text_blocks
from randygpt.model.config import MAX_VOCAB

if TYPE_CHECKING:
    import tokenizers

BOS_ID = 0
EOS_ID = 1
_CODE_POINTS = 0x110000
_SPECIAL = ("<|bos|>", text_blocks.END)
_LONGEST_UNCUT = 1 << 23  # characters encoded at once if a text has no place to cut it
_LEARNED_FROM = 1 << 23  # characters that byte pairs are learned from at most; each takes up to 100 bytes meanwhile


class Tokenizer(Protocol):
    """What the rest of the program asks of a tokenizer."""

    @property
    def kind(self) -> Literal["char", "bpe"]:
        """How config.json names it."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""

    @property
    def vocab(self) -> Sequence[str]:
        """The entries of the vocabulary, by id."""

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Ids (T,) of a text; characters that are not in the vocabulary are dropped."""

    def encode_corpus(self, text: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
        """Ids of a training text, in pieces (T,); they do not depend on where it is cut into blocks."""

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
    def from_text(cls, text: Iterable[str]) -> Self:
        """The vocabulary of a corpus, whole or in blocks."""
        return cls(["<", ">", *text_blocks.survey(text)[0]])

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

    @property
    def vocab(self) -> Sequence[str]:
        """The entries of the vocabulary, by id."""
        return self.chars

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Ids (T,) of a text; characters that are not in the vocabulary are dropped."""
        ids: npt.NDArray[np.int32] = self._ids[text_blocks.code_points(text)]
        return ids[ids >= 0]

    def encode_corpus(self, text: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
        """Ids of a training text, in pieces (T,)."""
        return map(self.encode, text_blocks.as_blocks(text))

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
    def train(
        cls,
        text: Iterable[str],
        vocab_size: int,
        *,
        show_progress: bool = False,
        warn: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Learn a vocabulary of `vocab_size` entries (fewer if the text has no more to merge) from a corpus.

        The corpus is a str, or blocks that can be gone through twice. Of one over 8 million characters every character
        counts, and byte pairs are learned from blocks spread evenly over it; `warn` is told so.
        """
        import tokenizers  # noqa: PLC0415 (a tenth of a second)

        chars, length = text_blocks.survey(text_blocks.without_ends(text))
        if vocab_size < len(_SPECIAL) + len(chars):
            least = len(_SPECIAL) + len(chars)
            raise InvalidModelFile(f"this text has {len(chars)} characters: {least} is the smallest vocabulary")
        share = _LEARNED_FROM / max(length, _LEARNED_FROM)
        if share < 1:
            warn(f"byte pairs are learned from {share:.1%} of the text, spread evenly over it")
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        learner.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(_SPECIAL), initial_alphabet=chars, show_progress=show_progress
        )
        learner.train_from_iterator(
            map(text_blocks.lines, text_blocks.spread(text_blocks.whole_ends(text), share)), trainer
        )
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
        return self._encode([text])

    def encode_corpus(self, text: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
        """Ids of a training text, in pieces (T,); the words `<|eos|>` are id 1.

        They do not depend on where it is cut into blocks, unless 8 million characters in a row have no place where no
        merge could reach across.
        """
        waiting: list[str] = []
        for block in text_blocks.whole_ends(text):
            cut = self._cut(block)
            if not cut and sum(map(len, waiting)) + len(block) > _LONGEST_UNCUT:
                cut = len(block)
            if cut:
                yield self._encode("".join([*waiting, block[:cut]]).split(text_blocks.END))
                waiting = []
            waiting.append(block[cut:])
        yield self._encode("".join(waiting).split(text_blocks.END))

    def _cut(self, block: str) -> int:
        """The last place where a block can be cut without changing an id, 0 if there is none.

        That is behind a newline or an end, or between two known characters that no entry has side by side.
        """
        end = block.rfind(text_blocks.END)
        if cut := max(block.rfind("\n") + 1, end + len(text_blocks.END) if end >= 0 else 0):
            return cut
        for cut in range(len(block) - 1, 0, -1):
            pair = block[cut - 1 : cut + 1]
            if pair not in self._pairs and pair[0] in self._ids and pair[1] in self._ids:
                return cut
        return 0

    @cached_property
    def _pairs(self) -> frozenset[str]:
        """Characters side by side in an entry."""
        return frozenset(entry[at : at + 2] for entry in self._ids for at in range(len(entry) - 1))

    def _encode(self, documents: Sequence[str]) -> npt.NDArray[np.int32]:
        """Ids (T,) of documents, with the id of the end between them."""
        parts = [text_blocks.parts(document) for document in documents]
        encoded = iter(self._encoder.encode_batch_fast([*itertools.chain(*parts)], add_special_tokens=False))
        ids: list[npt.NDArray[np.int32]] = []
        for document in parts:
            ids += [np.asarray(next(encoded).ids, dtype=np.int32) for _ in document]
            ids.append(np.array([EOS_ID], dtype=np.int32))
        return np.concatenate(ids[:-1])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; begin and end have none."""
        return "".join(self.vocab[token] for token in ids if token not in {BOS_ID, EOS_ID})

    def merges_by_priority(self) -> list[tuple[str, str]]:
        """The merges in the order in which they are tried: that of what they give."""
        return sorted(self.merges, key=lambda pair: self._ids["".join(pair)])

    @cached_property
    def _encoder(self) -> "tokenizers.Tokenizer":
        import tokenizers  # noqa: PLC0415 (a tenth of a second)

        encoder = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=self._ids, merges=self.merges_by_priority()))
        encoder.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
        return encoder


def _is_pair(raw: object) -> bool:
    return isinstance(raw, list) and len(raw) == 2 and all(isinstance(part, str) for part in raw)  # noqa: PLR2004


def _is_surrogate(char: object) -> bool:
    return isinstance(char, str) and "\ud800" <= char <= "\udfff"
