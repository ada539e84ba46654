"""Training text, read in blocks so that one of any size fits in memory. Reads files; no torch."""

import codecs
import collections
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from randygpt.errors import InvalidModelFile

DEFAULT_TEXT = Path("train.txt")
_BLOCK = 1 << 20  # bytes


class Text:
    """A text that can be gone through again and again: iterating gives its blocks, of about a million characters.

    A block ends behind a newline if it holds one, else anywhere. Going through it raises OSError, and InvalidModelFile,
    naming the file, if it is not UTF-8 or not what it was when it was gone through before.
    """

    def __init__(self, opened: Callable[[], BinaryIO], source: str, path: Path | None = None) -> None:
        self.source = source  # where it is from, for the person
        self.path = path  # None: not a file that can be read twice
        self._opened = opened
        self._sha256 = b""  # of the bytes, once somebody went through them all

    @classmethod
    def of(cls, contents: str | bytes, source: str = "text") -> Self:
        """A text in memory."""
        data = contents.encode() if isinstance(contents, str) else contents
        return cls(lambda: io.BytesIO(data), source)

    @classmethod
    def find(cls, path: Path | None) -> Self:
        """A file, else `train.txt` if it is there, else the prose that comes with Python; raises OSError."""
        if path is None and not DEFAULT_TEXT.is_file():
            from pydoc_data.topics import topics  # noqa: PLC0415 (half a megabyte)

            return cls.of("\n\n".join(topics.values()), "the Python manual (built in)")
        found = path or DEFAULT_TEXT
        if not found.is_file():
            return cls.of(found.read_bytes(), str(found))  # a pipe, or the reason why it cannot be read
        return cls(lambda: found.open("rb"), str(found), found)

    @property
    def sha256(self) -> bytes:
        """Hash of its bytes; goes through the text if nobody has yet."""
        if not self._sha256:
            collections.deque(self, maxlen=0)
        return self._sha256

    def __iter__(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        digest, position, rest = hashlib.sha256(), 0, ""
        with self._opened() as file:
            while data := file.read(_BLOCK):
                digest.update(data)
                position += len(data)
                block = rest + self._decode(decoder, data, position)
                cut = block.rfind("\n") + 1 or len(block)
                yield block[:cut]
                rest = block[cut:]
        self._decode(decoder, b"", position)
        if rest:
            yield rest
        if self._sha256 not in {b"", digest.digest()}:
            raise InvalidModelFile(f"{self.source}: changed while it was being read")
        self._sha256 = digest.digest()

    def _decode(self, decoder: codecs.IncrementalDecoder, data: bytes, position: int) -> str:
        """The characters that `data`, which ends at byte `position`, completes; without data, none may be open."""
        try:
            return decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            offset = position - len(error.object) + error.start  # the object begins with what was left open before
            raise InvalidModelFile(f"{self.source}: not UTF-8 text: byte {offset}") from None
