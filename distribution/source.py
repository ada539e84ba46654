"""Files to publish: read through one open descriptor, hashed segment by segment. Does disk I/O."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

from distribution.chunking import spans
from distribution.errors import CallerError
from distribution.file_hash import FileHash, SpanHashes
from distribution.manifest import FileEntry, Segment, find_file_fault, is_digest

BLOB_SIZE = 16_773_120  # bytes of a piece of a large file on Blossom servers: 364 chunks
CUT_ABOVE = 32 << 20  # bytes of a checkpoint that stays one blob

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file to publish. It is read several times through one open descriptor, so a rename does no harm.

    Raises:
        CallerError: The protocol does not allow such a file: its path, its segments or its size.
    """

    path: str  # its name in the release
    role: str
    file: BinaryIO
    segments: tuple[tuple[str, int], ...]  # (name, length in bytes), in order; together all that is published
    start: bytes = b""  # replaces the first bytes of the file
    is_part: bool = False  # whether the file continues after the last segment
    _reading: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if fault := find_file_fault(self.path, self.role, self.segments):
            raise CallerError(f"not a file for a release: {fault}")

    @property
    def size(self) -> int:
        """Size of what is published, in bytes."""
        return sum(length for _, length in self.segments)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, on any thread; raises OSError."""
        with self._reading:
            self.file.seek(offset)
            data = self.file.read(size)
        return self.start[offset : offset + len(data)] + data[max(0, len(self.start) - offset) :]

    def hash(self, blob_size: int | None = None) -> "HashedSource":
        """Hash the file, its segments, and its pieces of `blob_size` bytes in one pass; None: it is not cut.

        Raises:
            CallerError: The segments are not the whole file.
            OSError: The file cannot be read.
        """
        lengths = [length for _, length in self.segments]
        whole, offset = FileHash(lengths), 0
        pieces = SpanHashes([size for _, size in spans(lengths, blob_size)] if blob_size else [])
        with ThreadPoolExecutor(1) as pool:  # pieces are hashed on another core
            while offset < self.size:
                if not (block := self.read(offset, min(self.size - offset, _READ_BYTES))):
                    raise CallerError(f"{self.path}: shorter than its segments")
                hashing = pool.submit(pieces.update, block)
                whole.update(block)
                hashing.result()
                offset += len(block)
        if not self.is_part and self.read(offset, 1):
            raise CallerError(f"{self.path}: longer than its segments")
        return HashedSource(
            path=self.path,
            role=self.role,
            sha256=whole.digest(),
            segments=tuple(
                Segment(name=name, size=size, sha256=sha256)
                for (name, size), sha256 in zip(self.segments, whole.segments, strict=True)
            ),
            pieces=b"".join(pieces.digests) if blob_size else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedSource:
    """A file to publish and its hashes.

    Raises:
        CallerError: The protocol does not allow such a file.
    """

    path: str
    role: str
    sha256: bytes
    segments: tuple[Segment, ...]
    pieces: bytes | None = None  # SHA-256 of each piece, in order; None: the file is one blob

    def __post_init__(self) -> None:
        fault = find_file_fault(self.path, self.role, [(segment.name, segment.size) for segment in self.segments])
        if fault or not is_digest(self.sha256):
            raise CallerError(f"not a file for a release: {fault or 'a hash is not 32 bytes'}")

    def blobs(self, blob_size: int) -> Iterator[tuple[bytes, int]]:
        """Yield (SHA-256, size) of each blob that would carry it."""
        sizes = [segment.size for segment in self.segments]
        if self.pieces is None:
            yield self.sha256, sum(sizes)
            return
        for index, (_, size) in enumerate(spans(sizes, blob_size)):
            yield self.pieces[32 * index : 32 * (index + 1)], size

    def entry(self, references: bytes) -> FileEntry:
        """Return the file as the manifest lists it; `references` are (event id ‖ SHA-256) of its chunks, in order."""
        return FileEntry(
            path=self.path,
            role=self.role,
            size=sum(segment.size for segment in self.segments),
            sha256=self.sha256,
            segments=self.segments,
            references=references,
            pieces=self.pieces,
        )


class FileHasher:
    """Hashes of the files of a release, with those of the pieces that Blossom servers get.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self._files = files
        self._hashed: dict[int | None, list[HashedSource]] = {}

    async def hash(self, blob_size: int | None) -> list[HashedSource]:
        """Return the hashes of the files, in order; read them unless they were hashed with the same pieces before.

        Args:
            blob_size: Size of the pieces of large files, in bytes; None: no file is cut.

        Raises:
            CallerError: The segments of a file are not the whole file.
            OSError: A file cannot be read.
        """
        if blob_size not in self._hashed:
            self._hashed[blob_size] = await asyncio.to_thread(self._hash, blob_size)
        return self._hashed[blob_size]

    def _hash(self, blob_size: int | None) -> list[HashedSource]:
        return [file.hash(blob_size if file.size > CUT_ABOVE else None) for file in self._files]
