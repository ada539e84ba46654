"""Files being fetched, and hashes of files on disk. Does disk I/O."""

import errno
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from distribution.errors import CallerError, InvalidManifest
from relay_client import durable

_READ_BYTES = 1 << 20
_STAT_BLOCK = 512  # bytes, whatever the file system (POSIX)


class PartialFile:
    """A file being fetched; survives a crash and is taken up again by whoever opens it next."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, durable.SECRET)
        os.ftruncate(self._descriptor, size)
        self._digest, self._hashed = hashlib.sha256(), 0  # of the bytes from the start, and how many those are
        self._using = threading.Lock()  # `advance` runs on a thread, perhaps still when its caller was cancelled
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._using:
            self._closed = True
            os.close(self._descriptor)

    @property
    def allocated(self) -> int:
        """Bytes of the disk that it takes already."""
        return os.fstat(self._descriptor).st_blocks * _STAT_BLOCK

    def is_hole(self, offset: int, size: int) -> bool:
        """Whether nothing was ever written there; False where the file system cannot tell."""
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_DATA) >= offset + size
        except OSError as error:
            return error.errno == errno.ENXIO  # no data from there on

    def read(self, offset: int, size: int) -> bytes:
        """What is there, verified or not."""
        return os.pread(self._descriptor, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Put verified bytes in their place; raises OSError."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def copy(self, path: Path, *, start: bytes) -> None:
        """Put a file's bytes at the beginning, verified or not, with `start` in place of as many of its first ones."""
        with path.open("rb") as source:
            source.seek(len(start))
            self.write(0, start)
            offset = len(start)
            while block := source.read(_READ_BYTES):
                self.write(offset, block)
                offset += len(block)

    def advance(self, end: int) -> None:
        """Hash on up to `end` and have the disk take it: what is done as the bytes come is not left for the end."""
        with self._using:
            if not self._closed:
                self._hash_to(end)
                os.fsync(self._descriptor)

    def finish(self, sha256: bytes, folder: Path, rewrite: "HeaderRewrite | None" = None) -> bytes:
        """Verify the whole and move it to `folder`, under its hash, which is returned.

        Where there is a `rewrite`, it is applied in between. Raises InvalidManifest if it is not the file.
        """
        self._hash_to(os.fstat(self._descriptor).st_size)
        if self._digest.digest() != sha256:
            self._path.unlink()
            raise InvalidManifest("the chunks are the ones named, but not the file that the manifest promises")
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
            self._digest.update(block)
            self._hashed += len(block)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRewrite:
    """What makes a file of its own out of the first segment of a checkpoint: its first `size` bytes are replaced.

    `apply` gets those bytes and gives as many. Which formats that suits, only the caller knows.
    """

    size: int  # bytes
    apply: Callable[[bytes], bytes]

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise CallerError(f"a rewrite replaces at least one byte, not {self.size}")


def hashes_to(path: Path, sha256: bytes, *, start: bytes = b"") -> bool:
    """Whether a file is there, and its bytes have this hash, with `start` in place of as many of the first ones.

    A symbolic link is an OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return _hash(descriptor, start) == sha256
    finally:
        os.close(descriptor)


def _hash(descriptor: int, start: bytes = b"") -> bytes:
    digest = hashlib.sha256(start)
    for block in _blocks(descriptor, len(start)):
        digest.update(block)
    return digest.digest()


def _blocks(descriptor: int, offset: int, end: int = sys.maxsize) -> Iterator[bytes]:
    while block := os.pread(descriptor, min(_READ_BYTES, max(0, end - offset)), offset):
        yield block
        offset += len(block)
