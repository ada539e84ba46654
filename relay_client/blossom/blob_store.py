"""Blobs of the built-in Blossom server on disk: atomic, durable, within a quota. Does disk I/O.

blobs/<sha256>    the bytes; named only when they are complete and on the disk
incoming/         blobs that are being received; emptied at the start
blobs.sqlite      who uploaded which blob, and when

A blob belongs to everyone who uploaded it, and is removed with its last owner. A blob without a record, or a record
without a blob, as a power loss may leave them, is removed at the start.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from relay_client import durable
from relay_client.blossom.blob_limits import BlobLimits
from relay_client.errors import CallerError, StorageError
from relay_client.hexadecimal import parse_hex

_DIGEST = 32  # bytes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    sha256 BLOB NOT NULL,
    owner BLOB NOT NULL,
    size INTEGER NOT NULL,
    type TEXT NOT NULL,
    uploaded INTEGER NOT NULL,  -- seconds since 1970
    PRIMARY KEY (sha256, owner)
) STRICT;
"""


class StoreFull(StorageError):
    """The quota, or the disk, has no room for a blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob on the disk."""

    sha256: bytes
    size: int  # bytes
    type: str  # media type, as the first uploader named it
    owners: Mapping[bytes, int]  # public key: when it uploaded the blob, in seconds since 1970

    @property
    def uploaded(self) -> int:
        """Time of the first upload, in seconds since 1970."""
        return min(self.owners.values())


class BlobStore:
    """Blobs below one folder; a context manager. Its methods block and may be called from several threads.

    Entering raises CallerError if another process uses the folder, StorageError and OSError if it cannot be read.
    """

    def __init__(self, folder: Path, limits: BlobLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._lock = threading.Lock()  # of the records and the names in blobs/
        self._blobs: dict[bytes, StoredBlob] = {}
        self._used = 0  # bytes of all blobs
        self._reserved = 0  # bytes of blobs that are being received

    def __enter__(self) -> Self:
        for each in ("blobs", "incoming"):
            durable.make_directory(self._folder / each)
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context((self._folder / "lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CallerError(f"{self._folder} is in use by another Blossom server") from None
            try:
                self._database = sqlite3.connect(self._folder / "blobs.sqlite", check_same_thread=False)
                stack.callback(self._database.close)
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.executescript(_SCHEMA)
                self._load()
            except sqlite3.Error as error:
                raise StorageError(f"{self._folder / 'blobs.sqlite'}: {error}") from None
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def path(self, sha256: bytes) -> Path:
        """Return the file of a blob."""
        return self._folder / "blobs" / sha256.hex()

    def find(self, sha256: bytes) -> StoredBlob | None:
        """Return a blob, None if it is not stored."""
        return self._blobs.get(sha256)

    def of_owner(self, owner: bytes) -> list[StoredBlob]:
        """Return the blobs that a public key uploaded, the newest first."""
        with self._lock:
            found = [blob for blob in self._blobs.values() if owner in blob.owners]
        return sorted(found, key=lambda blob: (-blob.owners[owner], blob.sha256))

    def check_room(self, size: int) -> None:
        """Check that a blob of `size` bytes fits; raises StoreFull."""
        if len(self._blobs) >= self._limits.max_blobs:
            raise StoreFull(f"the server has {self._limits.max_blobs:,} blobs, its limit")
        if self._used + self._reserved + size > self._limits.max_total_size:
            raise StoreFull("the server is full")

    def receive(self, size: int) -> "IncomingBlob":
        """Reserve room for a blob of `size` bytes, and return what to write it to.

        Raises:
            StoreFull: It does not fit.
            OSError: Its file cannot be created.
        """
        with self._lock:
            self.check_room(size)
            self._reserved += size
        try:
            return IncomingBlob(self, self._folder / "incoming" / secrets.token_hex(16), size)
        except BaseException:
            self._release(size)
            raise

    def add_owner(self, sha256: bytes, owner: bytes, now: int) -> StoredBlob | None:
        """Record that a public key uploaded a blob that is stored; return it, None if it is not."""
        with self._lock:
            blob = self._blobs.get(sha256)
            return blob and self._record(blob, owner, now)

    def remove_owner(self, sha256: bytes, owner: bytes) -> bool:
        """Remove a blob of a public key, the bytes with its last owner; return False if it does not own the blob."""
        with self._lock:
            blob = self._blobs.get(sha256)
            if blob is None or owner not in blob.owners:
                return False
            with self._database:
                self._database.execute("DELETE FROM blobs WHERE sha256 = ? AND owner = ?", (sha256, owner))
            owners = {each: time for each, time in blob.owners.items() if each != owner}
            if owners:
                self._blobs[sha256] = replace(blob, owners=owners)
            else:
                del self._blobs[sha256]
                self._used -= blob.size
                self.path(sha256).unlink(missing_ok=True)
            return True

    def _add(self, incoming: "IncomingBlob", sha256: bytes, media_type: str, owner: bytes, now: int) -> StoredBlob:
        with self._lock:
            if known := self._blobs.get(sha256):
                return self._record(known, owner, now)
            path = self.path(sha256)
            try:
                incoming.path.replace(path)
                durable.sync_directory(path.parent)
                blob = StoredBlob(sha256=sha256, size=incoming.size, type=media_type, owners={})
                stored = self._record(blob, owner, now)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            self._used += stored.size
            return stored

    def _record(self, blob: StoredBlob, owner: bytes, now: int) -> StoredBlob:
        owners = {owner: now, **blob.owners}
        with self._database:
            row = (blob.sha256, owner, blob.size, blob.type, owners[owner])
            self._database.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?)", row)
        self._blobs[blob.sha256] = replace(blob, owners=owners)
        return self._blobs[blob.sha256]

    def _release(self, size: int) -> None:
        with self._lock:
            self._reserved -= size

    def _load(self) -> None:
        """Read the records, and remove what a crash left of a blob."""
        for path in (self._folder / "incoming").iterdir():
            path.unlink()
        files = {path.name: path for path in (self._folder / "blobs").iterdir()}
        rows = self._database.execute("SELECT sha256, owner, size, type, uploaded FROM blobs ORDER BY uploaded")
        lost = set()
        for sha256, owner, size, media_type, uploaded in rows:
            known = self._blobs.get(sha256)
            if sha256.hex() not in files:
                lost.add(sha256)
                continue
            owners = {**(known.owners if known else {}), owner: uploaded}
            first = known.type if known else media_type
            self._blobs[sha256] = StoredBlob(sha256=sha256, size=size, type=first, owners=owners)
        with self._database:
            self._database.executemany("DELETE FROM blobs WHERE sha256 = ?", [(each,) for each in lost])
        for name, path in files.items():
            if parse_hex(name, _DIGEST) not in self._blobs:
                path.unlink()
        self._used = sum(blob.size for blob in self._blobs.values())


class IncomingBlob:
    """A blob that is being received; a context manager that removes what was not kept. Its methods block."""

    def __init__(self, store: BlobStore, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._store = store
        self._hash = hashlib.sha256()
        self._written = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, durable.SECRET)
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()  # may write what is buffered
        finally:
            self.path.unlink(missing_ok=True)
            self._store._release(self.size)  # noqa: SLF001 (its store)

    def write(self, block: bytes | bytearray) -> None:
        """Append bytes, at most as many as were reserved; raises OSError."""
        if self._written + len(block) > self.size:
            raise StorageError("more bytes than were reserved")
        self._hash.update(block)
        self._file.write(block)
        self._written += len(block)

    def digest(self) -> bytes:
        """Return the SHA-256 of what was written."""
        return self._hash.digest()

    def keep(self, *, media_type: str, owner: bytes, now: int) -> StoredBlob:
        """Store the blob under its hash, durably, for a public key; raises OSError and sqlite3.Error."""
        durable.sync(self._file)
        return self._store._add(self, self.digest(), media_type, owner, now)  # noqa: SLF001 (its store)
