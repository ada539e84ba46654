"""SHA-256 of a file, its segments and its pieces, while it is read once. No I/O."""

import hashlib
from collections.abc import Sequence


class SpanHashes:
    """SHA-256 of consecutive spans of bytes.

    Args:
        sizes: Sizes of the spans, in bytes.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.digests: list[bytes] = []  # of the spans that are complete
        self._sizes = iter(sizes)
        self._left = next(self._sizes, 0)
        self._hash = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Hash the next bytes; those after the last span are ignored."""
        view = memoryview(data)
        while view and self._left:
            part, view = view[: self._left], view[self._left :]
            self._hash.update(part)
            self._left -= len(part)
            if not self._left:
                self.digests.append(self._hash.digest())
                self._hash, self._left = hashlib.sha256(), next(self._sizes, 0)


class FileHash:
    """SHA-256 of a file and of its segments. The first segment begins with the file, so it needs no hash of its own.

    Args:
        sizes: Sizes of the segments, in bytes.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._whole = hashlib.sha256()
        self._left = sizes[0]  # bytes of the first segment
        self._first: list[bytes] = []
        self._rest = SpanHashes(sizes[1:])

    def update(self, data: bytes) -> None:
        """Hash the next bytes of the file."""
        view = memoryview(data)
        first, rest = view[: self._left], view[self._left :]
        self._whole.update(first)
        if self._left:
            self._left -= len(first)
            if not self._left:
                self._first = [self._whole.digest()]
        self._whole.update(rest)
        self._rest.update(rest)

    def digest(self) -> bytes:
        """Return the SHA-256 of the bytes so far."""
        return self._whole.digest()

    @property
    def segments(self) -> list[bytes]:
        """SHA-256 of the segments that are complete."""
        return [*self._first, *self._rest.digests]
