"""Files to publish: read through one open descriptor, hashed segment by segment. Does disk I/O."""

import hashlib
from dataclasses import dataclass
from typing import BinaryIO

from distribution.errors import CallerError
from distribution.manifest import FileEntry, Segment

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file to publish. It is read several times through one open descriptor, so a rename does not matter."""

    path: str  # its name in the release
    role: str
    file: BinaryIO
    segments: tuple[tuple[str, int], ...]  # (name, length in bytes), in order; together all that is published
    start: bytes = b""  # stands in place of the file's own first bytes
    is_part: bool = False  # whether the file goes on after the last segment

    def read(self, offset: int, size: int) -> bytes:
        """Some of it; raises OSError."""
        self.file.seek(offset)
        data = self.file.read(size)
        return self.start[offset : offset + len(data)] + data[max(0, len(self.start) - offset) :]

    def hash(self) -> "HashedSource":
        """Hash the file and its segments in one pass; raises CallerError if the segments are not the whole file."""
        whole, segments, offset = hashlib.sha256(), [], 0
        for name, length in self.segments:
            part, end = hashlib.sha256(), offset + length
            while offset < end and (block := self.read(offset, min(end - offset, _READ_BYTES))):
                whole.update(block)
                part.update(block)
                offset += len(block)
            segments.append(Segment(name=name, size=length, sha256=part.digest()))
            if offset < end or not length:
                raise CallerError(f"{self.path}: shorter than it says, or empty")
        if not self.is_part and self.read(offset, 1):
            raise CallerError(f"{self.path}: longer than it says")
        return HashedSource(path=self.path, role=self.role, sha256=whole.digest(), segments=tuple(segments))


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedSource:
    """What a file to publish is, byte for byte."""

    path: str
    role: str
    sha256: bytes
    segments: tuple[Segment, ...]

    def entry(self, references: bytes) -> FileEntry:
        """The file in a manifest; `references` are (event id ‖ sha256) of its chunks, in order."""
        return FileEntry(
            path=self.path,
            role=self.role,
            size=sum(segment.size for segment in self.segments),
            sha256=self.sha256,
            segments=self.segments,
            references=references,
        )
