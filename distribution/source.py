"""Files to publish: read through one open descriptor, hashed segment by segment. Does disk I/O."""

import hashlib
from dataclasses import dataclass
from typing import BinaryIO

from distribution.errors import CallerError
from distribution.manifest import FileEntry, Segment, find_file_fault, is_digest

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

    def __post_init__(self) -> None:
        if fault := find_file_fault(self.path, self.role, self.segments):
            raise CallerError(f"not a file for a release: {fault}")

    @property
    def size(self) -> int:
        """Size of what is published, in bytes."""
        return sum(length for _, length in self.segments)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; raises OSError."""
        self.file.seek(offset)
        data = self.file.read(size)
        return self.start[offset : offset + len(data)] + data[max(0, len(self.start) - offset) :]

    def hash(self) -> "HashedSource":
        """Hash the file and its segments in one pass.

        Raises:
            CallerError: The segments are not the whole file.
            OSError: The file cannot be read.
        """
        whole, segments, offset = hashlib.sha256(), [], 0
        for name, length in self.segments:
            part, end = hashlib.sha256(), offset + length
            while offset < end and (block := self.read(offset, min(end - offset, _READ_BYTES))):
                whole.update(block)
                part.update(block)
                offset += len(block)
            segments.append(Segment(name=name, size=length, sha256=part.digest()))
            if offset < end:
                raise CallerError(f"{self.path}: shorter than its segments")
        if not self.is_part and self.read(offset, 1):
            raise CallerError(f"{self.path}: longer than its segments")
        return HashedSource(path=self.path, role=self.role, sha256=whole.digest(), segments=tuple(segments))


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

    def __post_init__(self) -> None:
        fault = find_file_fault(self.path, self.role, [(segment.name, segment.size) for segment in self.segments])
        if fault or not is_digest(self.sha256):
            raise CallerError(f"not a file for a release: {fault or 'a hash is not 32 bytes'}")

    def entry(self, references: bytes) -> FileEntry:
        """Return the file as the manifest lists it; `references` are (event id ‖ SHA-256) of its chunks, in order."""
        return FileEntry(
            path=self.path,
            role=self.role,
            size=sum(segment.size for segment in self.segments),
            sha256=self.sha256,
            segments=self.segments,
            references=references,
        )
