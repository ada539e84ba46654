"""Token cache: the ids of the training text `my.txt`, in the file `my.txt.tokens`. Disk I/O; no torch.

The file has a header of 512 bytes (a magic line, a line of JSON, padding), then the ids, little-endian, in two bytes
each, or four for a vocabulary of more than 65,536 entries. The header has the hashes of text, vocabulary and ids; a
file that does not match them is rewritten. It can be deleted at any time (decision 0014).
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

from randygpt.model.tokenizer import Tokenizer
from randygpt.training.text import Text
from relay_client import durable

_MAGIC = b"randygpt tokens 1\n"
_HEADER = 512  # bytes
_MIN_TEXT = 1 << 20  # bytes; a smaller text is encoded fast enough without a file
_CHUNK = 1 << 22  # bytes
_MAX_UINT16_VOCAB = 1 << 16  # entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Ids of a text, in memory or memory-mapped from a file."""

    ids: npt.NDArray[np.unsignedinteger[Any]]  # (N,), read-only
    ends: npt.NDArray[np.int64]  # positions of `<|eos|>`, ascending, (documents,); empty for characters
    identity: str  # 64 hex digits that identify text and vocabulary
    mapped: mmap.mmap | None

    def release_pages(self) -> None:
        """Drop the resident pages of the mapping (MADV_DONTNEED)."""
        if self.mapped:
            self.mapped.madvise(mmap.MADV_DONTNEED)


def tokenize(text: Text, tokenizer: Tokenizer, warn: Callable[[str], None]) -> Tokens:
    """Return the tokens of a text, from its cache file if that is valid; else encode the text and write the file.

    If the file cannot be written, the tokens are kept in memory and `warn` receives the reason. Raises InvalidModelFile
    and OSError as iterating over the text does.
    """
    key = _CacheKey(text, tokenizer)
    if text.path is None or text.path.stat().st_size < _MIN_TEXT:
        return key.encode(io.BytesIO())
    path = text.path.with_name(f"{text.path.name}.tokens")
    try:
        if _is_taken(path):
            reason = "is not a token cache"
        else:
            tokens = key.read(path)
            if tokens is None:
                durable.remove_leftovers(path)
                with durable.atomic_file(path) as file:
                    tokens = key.encode(file)
            return tokens
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
    warn(f"{path} {reason}: keeping the tokens of {text.source} in memory")
    return key.encode(io.BytesIO())


class _CacheKey:
    """Cache key: hashes of text and vocabulary, and the dtype that follows from them."""

    def __init__(self, text: Text, tokenizer: Tokenizer) -> None:
        self._text, self._tokenizer = text, tokenizer
        canonical = json.dumps(tokenizer.to_json(), sort_keys=True, separators=(",", ":"))
        self._vocabulary = hashlib.sha256(canonical.encode())
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= _MAX_UINT16_VOCAB else "<u4")

    def encode(self, file: BinaryIO) -> Tokens:
        """Encode the text into an empty file, with its header, and map it; a BytesIO is not mapped."""
        file.write(bytes(_HEADER))
        tally = _Tally(self._tokenizer)
        pieces = self._tokenizer.encode_corpus(self._text)
        file.writelines(tally.add(ids.astype(self._dtype)).tobytes() for ids in pieces)
        file.seek(0)
        file.write(self._header(tally))
        return self._tokens(file, tally)

    def read(self, path: Path) -> Tokens | None:
        """Return the tokens in a cache file, None if it is missing or stale; raise OSError."""
        if not path.exists():
            return None
        with path.open("rb") as file:
            header, tally = file.read(_HEADER), _Tally(self._tokenizer)
            hashes = self._text.sha256.hex(), self._vocabulary.hexdigest()
            if not all(known.encode() in header for known in hashes):
                return None  # stale: skip reading the ids
            while data := file.read(_CHUNK):
                if len(data) % self._dtype.itemsize:
                    return None
                tally.add(np.frombuffer(data, self._dtype))
            return self._tokens(file, tally) if header == self._header(tally) else None

    def _header(self, tally: "_Tally") -> bytes:
        facts = {
            "text": self._text.sha256.hex(),
            "vocabulary": self._vocabulary.hexdigest(),
            "tokens": tally.digest.hexdigest(),
            "dtype": self._dtype.name,
            "count": tally.count,
        }
        return (_MAGIC + json.dumps(facts).encode() + b"\n").ljust(_HEADER)

    def _tokens(self, file: BinaryIO, tally: "_Tally") -> Tokens:
        file.flush()
        mapped = None if isinstance(file, io.BytesIO) else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = mapped or cast("io.BytesIO", file).getbuffer()
        ids = np.frombuffer(data, np.uint8)[_HEADER:].view(self._dtype)
        ids.flags.writeable = False
        identity = hashlib.sha256(self._text.sha256 + self._vocabulary.digest()).hexdigest()
        return Tokens(ids=ids, ends=np.concatenate(tally.ends), identity=identity, mapped=mapped)


class _Tally:
    """Running hash, count and document ends of the ids that pass through."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.digest = hashlib.sha256()
        self.count = 0
        self.ends = [np.zeros(0, np.int64)]
        self._end_ids = sorted(tokenizer.end_ids) if tokenizer.kind == "bpe" else []

    def add(self, ids: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Record some ids and return them."""
        if self._end_ids:
            self.ends.append(np.flatnonzero(np.isin(ids, self._end_ids)) + self.count)
        self.digest.update(ids.data)
        self.count += len(ids)
        return ids


def _is_taken(path: Path) -> bool:
    """Return whether the path is taken by a file that is not a token cache."""
    if not path.is_file():
        return path.exists()
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) != _MAGIC
