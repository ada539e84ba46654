"""Training text, streamed in blocks so that it may exceed the memory. Reads files; no torch."""

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
    """UTF-8 text that can be iterated repeatedly, in blocks of about a million characters, without a byte order mark.

    A block ends after its last newline if it has one. Iterating raises OSError, and InvalidModelFile if the text is not
    UTF-8 or has changed since it was last read.
    """

    def __init__(self, open_file: Callable[[], BinaryIO], source: str, size: int, path: Path | None = None) -> None:
        self.source = source  # where it is from, for messages
        self.size = size  # bytes
        self.path = path  # None: not a regular file
        self.on_read: Callable[[int], None] = lambda _: None  # receives the bytes read so far in each pass
        self._open = open_file
        self._sha256 = b""  # of the bytes, known after the first full pass

    @classmethod
    def of(cls, contents: str | bytes, source: str = "text") -> Self:
        """Return a text in memory."""
        data = contents.encode() if isinstance(contents, str) else contents
        return cls(lambda: io.BytesIO(data), source, len(data))

    @classmethod
    def built_in(cls) -> Self:
        """Return the Python manual without tables."""
        from pydoc_data.topics import topics  # noqa: PLC0415 (half a megabyte)

        paragraphs = "\n\n".join(topics.values()).split("\n\n")
        prose = [each for each in paragraphs if not each.lstrip().startswith(("+-", "|"))]
        return cls.of("\n\n".join(prose), "the Python manual (built in)")

    @classmethod
    def find(cls, path: Path | None) -> Self:
        """Return the text in a file, else in `train.txt`, else the Python manual without tables; raise OSError."""
        if path is None and not DEFAULT_TEXT.is_file():
            return cls.built_in()
        found = path or DEFAULT_TEXT
        if not found.is_file():
            return cls.of(found.read_bytes(), str(found))  # a pipe, or raise why it cannot be read
        return cls(lambda: found.open("rb"), str(found), found.stat().st_size, found)

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the bytes; reads the text if it has not been read yet."""
        if not self._sha256:
            collections.deque(self, maxlen=0)
        return self._sha256

    def __iter__(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()  # without a byte order mark
        digest, position, rest = hashlib.sha256(), 0, ""
        with self._open() as file:
            while data := file.read(_BLOCK):
                digest.update(data)
                position += len(data)
                block = rest + self._decode(decoder, data, position)
                cut = block.rfind("\n") + 1 or len(block)
                yield block[:cut]
                rest = block[cut:]
                self.on_read(position)
        self._decode(decoder, b"", position)
        if rest:
            yield rest
        if self._sha256 not in {b"", digest.digest()}:
            raise InvalidModelFile(f"{self.source}: changed while it was being read")
        self._sha256 = digest.digest()

    def _decode(self, decoder: codecs.IncrementalDecoder, data: bytes, position: int) -> str:
        """Decode `data`, which ends at byte `position` of the text; empty data ends the text."""
        try:
            return decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            offset = position - len(error.object) + error.start  # the object starts with leftover bytes
            raise InvalidModelFile(f"{self.source}: not UTF-8 text at byte {offset}") from None
