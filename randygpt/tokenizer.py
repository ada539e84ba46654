"""Text to token ids and back. No I/O, no torch.

Characters, as in the Rust program: id 0 is `<` (begin), 1 is `>` (end), then every character of the corpus, sorted.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from randygpt.config import MAX_VOCAB
from randygpt.errors import InvalidModelFile

BOS_ID = 0
EOS_ID = 1
_CODE_POINTS = 0x110000


class CharTokenizer:
    """One token a character. Raises InvalidModelFile when made from something else than characters."""

    kind: Literal["char"] = "char"

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


def _is_surrogate(char: object) -> bool:
    return isinstance(char, str) and "\ud800" <= char <= "\udfff"
