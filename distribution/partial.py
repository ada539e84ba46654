"""Files being fetched, and hashes of files on disk. Does disk I/O."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from distribution.errors import InvalidManifest
from relay_client import durable

_READ_BYTES = 1 << 20
_STAT_BLOCK = 512  # bytes, whatever the file system (POSIX)


class PartialFile:
    """A file being fetched; survives a crash and is taken up again by whoever opens it next."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, durable.SECRET)
        os.ftruncate(self._descriptor, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    @property
    def allocated(self) -> int:
        """Bytes of the disk that it takes already."""
        return os.fstat(self._descriptor).st_blocks * _STAT_BLOCK

    def read(self, offset: int, size: int) -> bytes:
        """What is there, verified or not."""
        return os.pread(self._descriptor, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Put verified bytes in their place; raises OSError."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def finish(self, sha256: bytes, blob: Path) -> None:
        """Verify the whole and move it to its place; raises InvalidManifest if it is not the file."""
        if _hash(self._descriptor) != sha256:
            self._path.unlink()
            raise InvalidManifest("the chunks are the ones named, but not the file that the manifest promises")
        os.fchmod(self._descriptor, durable.READ_ONLY)
        os.fsync(self._descriptor)
        self._path.replace(blob)
        durable.sync_directory(blob.parent)


def hashes_to(path: Path, sha256: bytes) -> bool:
    """Whether a file is there, and its bytes have this hash; a symbolic link is an OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return _hash(descriptor) == sha256
    finally:
        os.close(descriptor)


def _hash(descriptor: int) -> bytes:
    digest = hashlib.sha256()
    for block in _blocks(descriptor):
        digest.update(block)
    return digest.digest()


def _blocks(descriptor: int) -> Iterator[bytes]:
    offset = 0
    while block := os.pread(descriptor, _READ_BYTES, offset):
        yield block
        offset += len(block)
