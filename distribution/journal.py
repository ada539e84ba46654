"""Journal of publishes, so that a rerun creates the same event ids. Owns state/journal.sqlite.

A publish is identified by author, name and file hashes. The journal records what its event ids depend on and nothing
else: version, time, expiry, card, tags, relay hint, servers, and the sizes of blobs and manifest events. With them a
rerun creates the same drafts byte for byte, hence the same ids. If a throw-away key signed the chunks, their signatures
are recorded in its place; those of a remote signer are recorded so that the person is asked once. Receipts of relays
are separate, in state/receipts.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from distribution.ancestors import Ancestor
from distribution.chunk_signatures import ChunkSignatures
from distribution.errors import StoreError
from distribution.journal_schema import upgrade
from distribution.publish_record import COLUMNS, PART_SIZE, PublishRecord, parse_record
from distribution.receipts import Receipts
from relay_client import durable
from relay_client.event import Tags


def _create_private(path: Path) -> None:
    """Create an empty file that only its owner can read, or make an existing one so; SQLite copies its mode."""
    with contextlib.suppress(OSError):  # SQLite reports why it cannot be opened
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.SECRET)
        try:
            os.fchmod(descriptor, durable.SECRET)
        finally:
            os.close(descriptor)


class Journal:
    """An open journal; a context manager, for the thread that opened it.

    Raises:
        StoreError: The file cannot be used, or a newer program wrote it.
    """

    def __init__(self, path: Path) -> None:
        durable.make_directory(path.parent)
        self._path = path
        with self._translated():
            _create_private(path)
            self._database = sqlite3.connect(path, timeout=10, isolation_level=None)
            try:
                self._database.execute("PRAGMA synchronous = EXTRA")  # syncs the directory too
                upgrade(self._database, path)
            except (sqlite3.Error, StoreError):
                self._database.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def receipts(self, release_id: bytes) -> Receipts:
        """Return the receipts of one release."""
        return Receipts(self._path.with_name("receipts") / release_id.hex())

    def find(self, author: bytes, name: str, contents: bytes) -> PublishRecord | None:
        """Return the newest publish of exactly these files under this name, or None."""
        with self._translated():
            row = self._database.execute(
                f"SELECT {COLUMNS} FROM publishes"  # noqa: S608 (our own columns)
                " WHERE author = ? AND name = ? AND contents = ? ORDER BY version DESC LIMIT 1",
                (author, name, contents),
            ).fetchone()
        return parse_record(row) if row else None

    def begin(  # noqa: PLR0913 (a publish has this many facts)
        self,
        author: bytes,
        name: str,
        contents: bytes,
        *,
        above: int,
        created_at: int,
        card: Mapping[str, object],
        hint: str,
        expires: int | None = None,
        blob_size: int | None = None,
        servers: tuple[str, ...] = (),
        tags: Tags = (),
        chunk_signatures: ChunkSignatures | None = None,
    ) -> PublishRecord:
        """Record a new publish durably, with a version above `above` and above every recorded one."""
        chunk_author = chunk_signatures.pubkey if chunk_signatures else None
        with self._translated(), self._transaction():
            row = self._database.execute(
                "INSERT INTO publishes (author, name, contents, created_at, card, hint, expires, blob_size, servers,"
                " part_size, tags, chunk_author, version)"
                " SELECT ?1, ?2, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,"
                " 1 + max(?3, (SELECT coalesce(max(version), 0) FROM publishes WHERE author = ?1 AND name = ?2))"
                " RETURNING version",
                (
                    author,
                    name,
                    above,
                    contents,
                    created_at,
                    orjson.dumps(card).decode(),
                    hint,
                    expires,
                    blob_size,
                    orjson.dumps(servers).decode(),
                    PART_SIZE,
                    orjson.dumps(tags).decode(),
                    chunk_author,
                ),
            ).fetchone()
            if chunk_signatures:
                self._database.execute(
                    "INSERT INTO chunk_signatures VALUES (?, ?, ?, ?)", (author, name, *row, chunk_signatures.encode())
                )
        return PublishRecord(
            version=row[0],
            created_at=created_at,
            card=card,
            hint=hint,
            expires=expires,
            blob_size=blob_size,
            servers=servers,
            tags=tags,
            chunk_author=chunk_author,
            resumed=False,
        )

    def chunk_signatures(self, author: bytes, name: str, record: PublishRecord) -> ChunkSignatures | None:
        """Return the signatures that were recorded for the chunks of a publish, None if its author signs them."""
        if record.chunk_author is None:
            return None
        with self._translated():
            row = self._database.execute(
                "SELECT signatures FROM chunk_signatures WHERE author = ? AND name = ? AND version = ?",
                (author, name, record.version),
            ).fetchone()
        if row is None:
            raise StoreError(f"{self._path}: lacks the signatures of a release's chunks; use --new-version")
        return ChunkSignatures.decode(record.chunk_author, row[0])

    def signature(self, event_id: bytes) -> bytes | None:
        """Return the recorded signature of an event, unverified, or None."""
        with self._translated():
            row = self._database.execute("SELECT signature FROM signatures WHERE event_id = ?", (event_id,)).fetchone()
        return row[0] if row else None

    def record_signature(self, event_id: bytes, signature: bytes) -> None:
        """Record the signature of an event."""
        with self._translated():
            self._database.execute("INSERT OR REPLACE INTO signatures VALUES (?, ?)", (event_id, signature))

    def publishes(self, author: bytes) -> list[tuple[str, PublishRecord]]:
        """Return the name and the record of every publish of an author, oldest first."""
        with self._translated():
            rows = self._database.execute(
                f"SELECT name, {COLUMNS} FROM publishes"  # noqa: S608 (the same)
                " WHERE author = ? ORDER BY created_at, name, version",
                (author,),
            ).fetchall()
        return [(name, parse_record(rest)) for name, *rest in rows]

    def highest(self, author: bytes, name: str) -> int:
        """Return the highest recorded version of a name, 0 if none is recorded."""
        with self._translated():
            (version,) = self._database.execute(
                "SELECT coalesce(max(version), 0) FROM publishes WHERE author = ? AND name = ?", (author, name)
            ).fetchone()
        return int(version)

    def record_weights(self, sha256: bytes, release: Ancestor) -> None:
        """Record which release has these weights (SHA-256 of the segment), so that its forks can name it."""
        row = (sha256, release.release_id, release.author, release.hint)
        with self._translated():
            self._database.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)", row)

    def find_weights(self, sha256: bytes) -> Ancestor | None:
        """Return the last published release with these weights (SHA-256 of the segment), or None."""
        with self._translated():
            row = self._database.execute(
                "SELECT release, author, hint FROM checkpoints WHERE weights = ?", (sha256,)
            ).fetchone()
        return Ancestor(release_id=row[0], author=row[1], hint=row[2]) if row else None

    def send_rate(self, relay: str) -> float | None:
        """Return the events per second that a relay accepted when it was last sent many, or None."""
        with self._translated():
            row = self._database.execute("SELECT events_per_s FROM rates WHERE relay = ?", (relay,)).fetchone()
        return row[0] if row else None

    def record_send_rate(self, relay: str, events_per_s: float) -> None:
        """Record how many events per second a relay accepted."""
        with self._translated():
            self._database.execute("INSERT OR REPLACE INTO rates VALUES (?, ?)", (relay, events_per_s))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from None
