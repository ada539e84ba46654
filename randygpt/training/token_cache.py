"""The tokens of a training text, kept in a file beside it: `my.txt` has `my.txt.tokens`. Does disk I/O; no torch.

The file: 512 bytes of header (a line that says what it is, a line of JSON, spaces), then the ids, little-endian, two
bytes each, or four where a vocabulary has over 65,536 entries. The header names the hashes of text, vocabulary and ids;
a file that does not fit them to the byte is written anew. It can be deleted at any time.
"""

import hashlib
import io
import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from randygpt.model.tokenizer import EOS_ID, Tokenizer
from randygpt.training.text import Text
from relay_client import durable

_MAGIC = b"randygpt tokens 1\n"
_HEADER = 512  # bytes
_LEAST = 1 << 20  # bytes of a text worth a file; a smaller one is encoded in no time
_CHUNK = 1 << 22  # bytes
_MOST_16 = 1 << 16  # entries of a vocabulary whose ids fit 16 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A text as ids, in memory or mapped from a file."""

    ids: npt.NDArray[np.unsignedinteger[Any]]  # (N,), read-only
    ends: npt.NDArray[np.int64]  # (D,): where `<|eos|>` is, ascending; nowhere if tokens are characters
    identity: str  # 64 hex digits: the same for the same text and vocabulary only
    mapped: mmap.mmap | None

    def release_pages(self) -> None:
        """Give back the memory that looking at mapped ids took; the next look takes it anew."""
        if self.mapped:
            self.mapped.madvise(mmap.MADV_DONTNEED)


def tokenize(text: Text, tokenizer: Tokenizer, warn: Callable[[str], None]) -> Tokens:
    """The tokens of a text: from the file beside it if it fits, else encoded, and kept there.

    If they cannot be kept, they are in memory and `warn` gets the reason. Raises InvalidModelFile and OSError as going
    through the text does.
    """
    kind = _CacheKey(text, tokenizer)
    if text.path is None or text.path.stat().st_size < _LEAST:
        return kind.encode(io.BytesIO())
    path = text.path.with_name(f"{text.path.name}.tokens")
    try:
        if _is_foreign(path):
            reason = "is something else, and stays"
        else:
            kept = kind.read(path)
            if kept is None:
                durable.remove_leftovers(path)
                with durable.atomic_file(path) as file:
                    kept = kind.encode(file)
            return kept
    except OSError as error:
        reason = f"cannot be kept ({error.strerror or error})"
    warn(f"{path}: {reason}; the tokens of {text.source} are in memory")
    return kind.encode(io.BytesIO())


class _CacheKey:
    """Which text and vocabulary tokens are made from, and so how."""

    def __init__(self, text: Text, tokenizer: Tokenizer) -> None:
        self._text, self._tokenizer = text, tokenizer
        canonical = json.dumps(tokenizer.to_json(), sort_keys=True, separators=(",", ":"))
        self._vocabulary = hashlib.sha256(canonical.encode())
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= _MOST_16 else "<u4")

    def encode(self, file: BinaryIO) -> Tokens:
        """Write header and ids into an empty file, and map it; a file in memory stays there."""
        file.write(bytes(_HEADER))
        passed = _Tally(self._tokenizer)
        pieces = self._tokenizer.encode_corpus(self._text)
        file.writelines(passed.by(ids.astype(self._dtype)).tobytes() for ids in pieces)
        file.seek(0)
        file.write(self._header(passed))
        return self._tokens(file, passed)

    def read(self, path: Path) -> Tokens | None:
        """What a file holds, None if there is none or it does not fit. Raises OSError."""
        if not path.exists():
            return None
        with path.open("rb") as file:
            header, passed = file.read(_HEADER), _Tally(self._tokenizer)
            hashes = self._text.sha256.hex(), self._vocabulary.hexdigest()
            if not all(known.encode() in header for known in hashes):
                return None  # without reading all of it
            while data := file.read(_CHUNK):
                if len(data) % self._dtype.itemsize:
                    return None
                passed.by(np.frombuffer(data, self._dtype))
            return self._tokens(file, passed) if header == self._header(passed) else None

    def _header(self, passed: "_Tally") -> bytes:
        facts = {
            "text": self._text.sha256.hex(),
            "vocabulary": self._vocabulary.hexdigest(),
            "tokens": passed.digest.hexdigest(),
            "dtype": self._dtype.name,
            "count": passed.count,
        }
        return (_MAGIC + json.dumps(facts).encode() + b"\n").ljust(_HEADER)

    def _tokens(self, file: BinaryIO, passed: "_Tally") -> Tokens:
        file.flush()
        mapped = None if isinstance(file, io.BytesIO) else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = mapped or cast("io.BytesIO", file).getbuffer()
        ids = np.frombuffer(data, np.uint8)[_HEADER:].view(self._dtype)
        ids.flags.writeable = False
        identity = hashlib.sha256(self._text.sha256 + self._vocabulary.digest()).hexdigest()
        return Tokens(ids=ids, ends=np.concatenate(passed.ends), identity=identity, mapped=mapped)


class _Tally:
    """Takes down what the ids are that pass by."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.digest = hashlib.sha256()
        self.count = 0
        self.ends = [np.zeros(0, np.int64)]
        self._has_ends = tokenizer.kind == "bpe"

    def by(self, ids: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The same ids."""
        if self._has_ends:
            self.ends.append(np.flatnonzero(ids == EOS_ID) + self.count)
        self.digest.update(ids.data)
        self.count += len(ids)
        return ids


def _is_foreign(path: Path) -> bool:
    """Whether somebody else's file has our name."""
    if not path.is_file():
        return path.exists()
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) != _MAGIC
