"""Part files of a running fetch, and hashes of files on disk. Does disk I/O."""

import errno
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from distribution.errors import CallerError, InvalidManifest
from distribution.file_hash import FileHash, SpanHashes
from distribution.manifest import FileEntry
from relay_client import durable

_READ_BYTES = 1 << 20
_STAT_BLOCK = 512  # bytes, on every file system (POSIX)


class PartialFile:
    """A file being fetched; survives a crash, and the next process that opens it continues; a context manager.

    Args:
        path: The part file; created if it does not exist.
        file: The file that it will be.
    """

    def __init__(self, path: Path, file: FileEntry) -> None:
        self._path = path
        self._file = file
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, durable.SECRET)
        os.ftruncate(self._descriptor, file.size)
        self._hash = FileHash([segment.size for segment in file.segments])
        self._hashed = 0  # bytes from the start that `_hash` covers
        self._using = threading.Lock()  # `advance` runs on a thread, and may outlive a cancelled caller
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._using:
            self._closed = True
            os.close(self._descriptor)

    @property
    def allocated_size(self) -> int:
        """Space on disk that it occupies so far, in bytes."""
        return os.fstat(self._descriptor).st_blocks * _STAT_BLOCK

    def is_hole(self, offset: int, size: int) -> bool:
        """Return whether nothing was ever written there; False if the file system cannot tell."""
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_DATA) >= offset + size
        except OSError as error:
            return error.errno == errno.ENXIO  # no data after the offset

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at an offset, verified or not."""
        return os.pread(self._descriptor, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write verified bytes at an offset; raises OSError."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def copy_from(self, path: Path, *, start: bytes) -> None:
        """Copy the bytes of a file, verified or not, with its first bytes replaced by `start`; raises OSError."""
        with path.open("rb") as source:
            source.seek(len(start))
            self.write(0, start)
            offset = len(start)
            while block := source.read(_READ_BYTES):
                self.write(offset, block)
                offset += len(block)

    def advance(self, end: int) -> None:
        """Extend the running SHA-256 to `end` and fsync, so that finishing is cheap; raises OSError."""
        with self._using:
            if not self._closed:
                self._hash_to(end)
                os.fsync(self._descriptor)

    def finish(self, folder: Path, rewrite: "HeaderRewrite | None" = None) -> bytes:
        """Verify the file and its segments, apply the rewrite if given, and move the file to `folder` under its hash.

        Returns:
            SHA-256 of the moved file.

        Raises:
            InvalidManifest: The file or a segment does not hash right; the file is removed.
            OSError: The disk failed.
        """
        file = self._file
        self._hash_to(file.size)
        if (sha256 := self._hash.digest()) != file.sha256:
            self._path.unlink()
            raise InvalidManifest("the chunks match the manifest, but the file that they make does not")
        if wrong := find_wrong_segment(file, self._hash.segments):
            self._path.unlink()
            raise InvalidManifest(wrong)
        if rewrite:
            self.write(0, rewrite.apply(self.read(0, rewrite.size)))
            sha256 = _hash(self._descriptor)
        os.fchmod(self._descriptor, durable.READ_ONLY)
        os.fsync(self._descriptor)
        self._path.replace(folder / sha256.hex())
        durable.sync_directory(folder)
        return sha256

    def _hash_to(self, end: int) -> None:
        for block in _blocks(self._descriptor, self._hashed, end):
            self._hash.update(block)
            self._hashed += len(block)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRewrite:
    """Replacement of the first bytes of a checkpoint, which makes its first segment a checkpoint of its own.

    The caller knows the format; this package does not.

    Raises:
        CallerError: `size` is not above 0.
    """

    size: int  # bytes
    apply: Callable[[bytes], bytes]  # takes the first `size` bytes, and returns as many

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise CallerError(f"a rewrite replaces at least one byte, not {self.size}")


def hashes_to(path: Path, sha256: bytes, *, start: bytes = b"") -> bool:
    """Return whether a file exists and hashes to `sha256`, with its first bytes replaced by `start`.

    Raises:
        OSError: The file cannot be read, or is a symbolic link.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return _hash(descriptor, start) == sha256
    finally:
        os.close(descriptor)


def find_wrong_segment(file: FileEntry, digests: Sequence[bytes]) -> str | None:
    """Return what is wrong with a file whose segments hash to `digests`, or None."""
    for segment, sha256 in zip(file.segments, digests, strict=True):
        if segment.sha256 != sha256:
            return f"{file.path} matches the manifest, but its segment {segment.name} does not"
    return None


def hash_segments(path: Path, file: FileEntry) -> list[bytes]:
    """Return the SHA-256 of each segment of a complete file; raises OSError."""
    if len(file.segments) == 1:
        return [file.sha256]
    hashes = SpanHashes([segment.size for segment in file.segments])
    with path.open("rb") as opened:
        for block in _blocks(opened.fileno(), 0):
            hashes.update(block)
    return hashes.digests


def _hash(descriptor: int, start: bytes = b"") -> bytes:
    digest = hashlib.sha256(start)
    for block in _blocks(descriptor, len(start)):
        digest.update(block)
    return digest.digest()


def _blocks(descriptor: int, offset: int, end: int = sys.maxsize) -> Iterator[bytes]:
    while block := os.pread(descriptor, min(_READ_BYTES, max(0, end - offset)), offset):
        yield block
        offset += len(block)
