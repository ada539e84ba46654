"""Text to token ids and back. No I/O, no torch.

Two kinds, as in the Rust program:

- Characters: id 0 is `<` (begin), id 1 is `>` (end), then the corpus's characters, sorted.
- BPE: `<|bos|>`, `<|eos|>`, the characters, sorted, then one entry per merge. Merges never cross a newline.

Both drop a character that the vocabulary lacks. A prompt is plain text. In a training text for BPE, `<|eos|>` ends a
document: it is encoded as the end token and no merges are learned from it. A vocabulary of the Rust program may have
the begin and end tokens again, as results of merges: of the ids of an entry, the last is used, and all are special.
"""

import itertools
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
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
_SPECIAL_TOKENS = ("<|bos|>", text_blocks.EOS)
_MAX_UNCUT = 1 << 23  # characters encoded at once if a text has no place to cut it
_MAX_TRAINING_TEXT = 1 << 23  # characters to learn merges from; each takes up to 100 bytes of memory


class Tokenizer(Protocol):
    """Interface of both tokenizers."""

    @property
    def kind(self) -> Literal["char", "bpe"]:
        """The kind, as config.json names it."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, V."""

    @property
    def vocab(self) -> Sequence[str]:
        """The vocabulary's entries, by id."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids of the end token; `encode_corpus` uses the last one."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the begin and end tokens, which have no text."""

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Return the ids (T,) of a text, dropping characters that the vocabulary lacks."""

    def count_unknown(self, text: str) -> int:
        """Return the number of characters that `encode` drops."""

    def encode_corpus(self, text: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
        """Yield the ids of a training text in pieces (T,); they do not depend on how it is cut into blocks."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; the begin and end tokens have none."""

    def to_json(self) -> dict[str, object]:
        """Return the contents of a release's vocab.json."""


def byte_lengths(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Return the UTF-8 length of every vocabulary entry, (V,); zero for the begin and end tokens."""
    lengths = np.array([len(entry.encode()) for entry in tokenizer.vocab], dtype=np.int64)
    lengths[sorted(tokenizer.special_ids)] = 0
    return lengths


def tokenizer_from_json(raw: object) -> Tokenizer:
    """Parse a decoded vocab.json, `{"chars"}` or `{"vocab", "merges"}`; raise InvalidModelFile if it is wrong."""
    if isinstance(raw, Mapping) and "vocab" in raw:
        return BpeTokenizer.from_json(raw)
    return CharTokenizer.from_json(raw)


class CharTokenizer:
    """Character tokenizer; entries that are not single characters raise InvalidModelFile."""

    kind: Literal["char", "bpe"] = "char"
    end_ids = frozenset({EOS_ID})
    special_ids = frozenset({BOS_ID, EOS_ID})

    def __init__(self, chars: Sequence[object]) -> None:
        if not EOS_ID < len(chars) <= MAX_VOCAB:
            raise InvalidModelFile(f"the vocabulary must have 2 to {MAX_VOCAB} entries, not {len(chars)}")
        if not all(isinstance(char, str) and len(char) == 1 for char in chars):
            raise InvalidModelFile("an entry of the vocabulary is not a single character")
        if any(_is_surrogate(char) for char in chars):
            raise InvalidModelFile("an entry of the vocabulary is a lone surrogate, not a character")
        self.chars = tuple(str(char) for char in chars)
        self._ids = np.full(_CODE_POINTS, -1, dtype=np.int32)
        for token, char in enumerate(self.chars):  # of equal characters the later id wins
            self._ids[ord(char)] = token

    @classmethod
    def from_text(cls, text: Iterable[str]) -> Self:
        """Return the tokenizer of a corpus, given whole or in blocks."""
        return cls(["<", ">", *text_blocks.scan_characters(text)[0]])

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Parse a decoded vocab.json; raise InvalidModelFile if it is wrong."""
        chars = raw.get("chars") if isinstance(raw, Mapping) else None
        if not isinstance(chars, list):
            raise InvalidModelFile('the vocabulary has no list "chars"')
        return cls(chars)

    def to_json(self) -> dict[str, object]:
        """Return the contents of a release's vocab.json."""
        return {"chars": list(self.chars)}

    @property
    def vocab_size(self) -> int:
        """Number of ids, V."""
        return len(self.chars)

    @property
    def vocab(self) -> Sequence[str]:
        """The vocabulary's entries, by id."""
        return self.chars

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Return the ids (T,) of a text, dropping characters that the vocabulary lacks."""
        ids: npt.NDArray[np.int32] = self._ids[text_blocks.code_points(text)]
        return ids[ids >= 0]

    def count_unknown(self, text: str) -> int:
        """Return the number of characters that `encode` drops."""
        return int(np.count_nonzero(self._ids[text_blocks.code_points(text)] < 0))

    def encode_corpus(self, text: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
        """Yield the ids of a training text in pieces (T,)."""
        return map(self.encode, text_blocks.as_blocks(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; the begin and end tokens have none."""
        return "".join(self.chars[token] for token in ids if token not in self.special_ids)


class BpeTokenizer:
    """BPE tokenizer; merges that do not fit the vocabulary raise InvalidModelFile."""

    kind: Literal["char", "bpe"] = "bpe"

    def __init__(self, vocab: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        if not EOS_ID < len(vocab) <= MAX_VOCAB:
            raise InvalidModelFile(f"the vocabulary must have 2 to {MAX_VOCAB} entries, not {len(vocab)}")
        if any(_is_surrogate(char) for entry in vocab for char in entry):
            raise InvalidModelFile("an entry of the vocabulary contains a lone surrogate")
        self.vocab = tuple(vocab)
        self.merges = tuple(merges)
        ids = {entry: token for token, entry in enumerate(vocab)}  # of equal entries the later id wins
        for left, right in merges:
            if left not in ids or right not in ids or left + right not in ids:
                raise InvalidModelFile(f"the merge of {left!r:.100} and {right!r:.100} does not fit the vocabulary")
        self._ids = ids
        self.end_ids = _ids_of({text_blocks.EOS}, vocab) | {EOS_ID}
        self.special_ids = _ids_of(_SPECIAL_TOKENS, vocab) | {BOS_ID, EOS_ID}

    @classmethod
    def train(
        cls,
        text: Iterable[str],
        vocab_size: int,
        *,
        warn: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Learn a vocabulary from a corpus.

        Args:
            text: A str, or blocks that can be iterated twice. Merges are learned from at most 8 million characters, in
                blocks sampled evenly; the alphabet comes from all of it.
            vocab_size: Entries to learn; fewer if the text has no more pairs to merge.
            warn: Receives a message if merges are learned from a sample.

        Raises:
            InvalidModelFile: `vocab_size` is too small for the text's characters.
        """
        import tokenizers  # noqa: PLC0415 (a tenth of a second)

        chars, length = text_blocks.scan_characters(text_blocks.strip_eos(text))
        if vocab_size < len(_SPECIAL_TOKENS) + len(chars):
            least = len(_SPECIAL_TOKENS) + len(chars)
            raise InvalidModelFile(
                f"--bpe {vocab_size} is too small: a text with {len(chars)} different characters needs at least {least}"
            )
        fraction = _MAX_TRAINING_TEXT / max(length, _MAX_TRAINING_TEXT)
        if fraction < 1:
            warn(f"learning BPE merges from {fraction:.1%} of the text, sampled evenly")
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(_SPECIAL_TOKENS),
            initial_alphabet=chars,
            show_progress=False,
        )
        sampled = text_blocks.sample_evenly(text_blocks.rejoin_eos(text), fraction)
        bpe.train_from_iterator(map(text_blocks.training_lines, sampled), trainer)
        model = json.loads(bpe.to_str())["model"]
        return cls(sorted(model["vocab"], key=model["vocab"].get), [(left, right) for left, right in model["merges"]])

    @classmethod
    def from_json(cls, raw: Mapping[str, object]) -> Self:
        """Parse a decoded vocab.json; raise InvalidModelFile if it is wrong."""
        vocab, merges = raw.get("vocab"), raw.get("merges")
        if not isinstance(vocab, list) or not all(isinstance(entry, str) for entry in vocab):
            raise InvalidModelFile('the vocabulary\'s "vocab" is not a list of strings')
        if not isinstance(merges, list) or not all(_is_pair(pair) for pair in merges):
            raise InvalidModelFile('the vocabulary\'s "merges" is not a list of pairs of strings')
        return cls(vocab, [(left, right) for left, right in merges])

    def to_json(self) -> dict[str, object]:
        """Return the contents of a release's vocab.json."""
        return {"vocab": list(self.vocab), "merges": [list(pair) for pair in self.merges]}

    @property
    def vocab_size(self) -> int:
        """Number of ids, V."""
        return len(self.vocab)

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Return the ids (T,) of a text, dropping characters that the vocabulary lacks."""
        return self._encode([text])

    def count_unknown(self, text: str) -> int:
        """Return the number of characters that `encode` drops."""
        return int(np.count_nonzero(~self._known[text_blocks.code_points(text)]))

    def encode_corpus(self, text: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
        """Yield the ids of a training text in pieces (T,); `<|eos|>` becomes the last end token.

        The ids do not depend on how the text is cut into blocks, unless 8 million consecutive characters have no place
        that no merge can span.
        """
        pending: list[str] = []
        for block in text_blocks.rejoin_eos(text):
            cut = self._last_cut(block)
            if not cut and sum(map(len, pending)) + len(block) > _MAX_UNCUT:
                cut = len(block)
            if cut:
                yield self._encode("".join([*pending, block[:cut]]).split(text_blocks.EOS))
                pending = []
            pending.append(block[cut:])
        yield self._encode("".join(pending).split(text_blocks.EOS))

    def _last_cut(self, block: str) -> int:
        """Return the last place where a block can be cut without changing an id, 0 if it has none.

        A cut is possible after a newline or `<|eos|>`, and between two known characters that no entry has in sequence.
        """
        end = block.rfind(text_blocks.EOS)
        if cut := max(block.rfind("\n") + 1, end + len(text_blocks.EOS) if end >= 0 else 0):
            return cut
        for cut in range(len(block) - 1, 0, -1):
            pair = block[cut - 1 : cut + 1]
            if pair not in self._pairs and pair[0] in self._ids and pair[1] in self._ids:
                return cut
        return 0

    @cached_property
    def _pairs(self) -> frozenset[str]:
        """All pairs of adjacent characters in the vocabulary's entries."""
        return frozenset(entry[at : at + 2] for entry in self._ids for at in range(len(entry) - 1))

    def _encode(self, documents: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the ids (T,) of documents, separated by the end token."""
        parts = [text_blocks.encoding_parts(document) for document in documents]
        encoded = iter(self._encoder.encode_batch_fast([*itertools.chain(*parts)], add_special_tokens=False))
        ids: list[npt.NDArray[np.int32]] = []
        for document_parts in parts:
            ids += [np.asarray(next(encoded).ids, dtype=np.int32) for _ in document_parts]
            ids.append(np.array([max(self.end_ids)], dtype=np.int32))
        return np.concatenate(ids[:-1])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; the begin and end tokens have none."""
        return "".join(self.vocab[token] for token in ids if token not in self.special_ids)

    def merges_by_priority(self) -> list[tuple[str, str]]:
        """Return the merges in the order in which they apply: by the id of their result."""
        return sorted(self.merges, key=lambda pair: self._ids["".join(pair)])

    @cached_property
    def _known(self) -> npt.NDArray[np.bool_]:
        return text_blocks.known_points(entry for entry in self.vocab if len(entry) == 1)

    @cached_property
    def _encoder(self) -> "tokenizers.Tokenizer":
        import tokenizers  # noqa: PLC0415 (a tenth of a second)

        encoder = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=self._ids, merges=self.merges_by_priority()))
        encoder.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
        return encoder


def _ids_of(entries: Container[str], vocab: Sequence[str]) -> frozenset[int]:
    """Return all ids of some entries. The Rust program's vocabularies may have the special tokens twice."""
    return frozenset(token for token, entry in enumerate(vocab) if entry in entries)


def _is_pair(raw: object) -> bool:
    return isinstance(raw, list) and len(raw) == 2 and all(isinstance(part, str) for part in raw)  # noqa: PLR2004


def _is_surrogate(char: object) -> bool:
    return isinstance(char, str) and "\ud800" <= char <= "\udfff"
