"""What this machine has begun to publish, so that a rerun mints no new ids. Owns state/journal.sqlite.

A publish is (author, name, file hashes). The journal keeps what its event ids depend on and nothing else: version,
time, expiry, card and relay hint. With them a rerun makes the same drafts again, byte for byte, hence the same ids.
Which relay took what is kept beside it, in state/receipts.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from distribution.errors import StoreError
from distribution.events import MAX_VERSION
from distribution.manifest import is_count
from distribution.receipts import Receipts
from distribution.state_file import SCHEMA_VERSION, newer_state
from relay_client import durable
from relay_client.event import MAX_TIMESTAMP

_SCHEMA = """
CREATE TABLE IF NOT EXISTS publishes (
    author BLOB NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    contents BLOB NOT NULL,     -- one hash over all paths and file hashes
    created_at INTEGER NOT NULL,
    card TEXT NOT NULL,
    hint TEXT NOT NULL,
    expires INTEGER,            -- null: never
    PRIMARY KEY (author, name, version)
) STRICT;
CREATE TABLE IF NOT EXISTS rates (
    relay TEXT PRIMARY KEY,
    events_per_s REAL NOT NULL  -- that it took when it was last sent many
) STRICT;
"""
_ADD_EXPIRES = "ALTER TABLE publishes ADD COLUMN expires INTEGER"  # journals of older programs lack it


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRecord:
    """One publish."""

    version: int
    created_at: int  # seconds since 1970, of every event but the head
    card: Mapping[str, object]
    hint: str  # relay named in the release's tags
    expires: int | None = None  # seconds since 1970
    resumed: bool  # it was in the journal already

    def __post_init__(self) -> None:
        if not is_count(self.version, MAX_VERSION) or not is_count(self.created_at, MAX_TIMESTAMP):
            raise StoreError(f"a publish in the journal has version {self.version} and time {self.created_at}")
        if self.expires is not None and not is_count(self.expires, MAX_TIMESTAMP):
            raise StoreError(f"a publish in the journal expires at {self.expires}")


def contents_digest(files: list[tuple[str, bytes]]) -> bytes:
    """One hash over the (path, sha256) of a release's files."""
    return hashlib.sha256(b"".join(path.encode() + b"\0" + sha256 for path, sha256 in sorted(files))).digest()


class Journal:
    """An open journal; a context manager. Raises StoreError when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        durable.make_directory(path.parent)
        self._path = path
        with self._translated():
            self._database = sqlite3.connect(path, timeout=10, isolation_level=None)
            try:
                self._database.execute("PRAGMA synchronous = EXTRA")  # syncs the directory too
                self._upgrade()
            except (sqlite3.Error, StoreError):
                self._database.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def _upgrade(self) -> None:
        """Bring the tables to the present schema version; a journal without a number has version 1."""
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise newer_state(self._path, version)
        if version == SCHEMA_VERSION:
            return
        self._database.executescript(_SCHEMA)
        columns = {column for _, column, *_ in self._database.execute("PRAGMA table_info(publishes)")}
        if "expires" not in columns:
            with contextlib.suppress(sqlite3.OperationalError):  # another process was quicker
                self._database.execute(_ADD_EXPIRES)
        self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def receipts(self, release_id: bytes) -> Receipts:
        """Which relay took which event of a release."""
        return Receipts(self._path.with_name("receipts") / release_id.hex())

    def find(self, author: bytes, name: str, contents: bytes) -> PublishRecord | None:
        """The newest publish of exactly these files under this name, None if there was none."""
        with self._translated():
            row = self._database.execute(
                "SELECT version, created_at, card, hint, expires FROM publishes"
                " WHERE author = ? AND name = ? AND contents = ? ORDER BY version DESC LIMIT 1",
                (author, name, contents),
            ).fetchone()
        if row is None:
            return None
        version, created_at, card, hint, expires = row
        return PublishRecord(
            version=version, created_at=created_at, card=orjson.loads(card), hint=hint, expires=expires, resumed=True
        )

    def begin(
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
    ) -> PublishRecord:
        """Record a new publish, durably; its version is one more than `above` and than any recorded here."""
        with self._translated():
            row = self._database.execute(
                "INSERT INTO publishes (author, name, version, contents, created_at, card, hint, expires)"
                " SELECT ?1, ?2, 1 + max(?3, (SELECT coalesce(max(version), 0) FROM publishes"
                " WHERE author = ?1 AND name = ?2)), ?4, ?5, ?6, ?7, ?8 RETURNING version",
                (author, name, above, contents, created_at, orjson.dumps(card).decode(), hint, expires),
            ).fetchone()
        return PublishRecord(
            version=row[0], created_at=created_at, card=card, hint=hint, expires=expires, resumed=False
        )

    def highest(self, author: bytes, name: str) -> int:
        """The highest version recorded of a name, 0 if there is none."""
        with self._translated():
            (version,) = self._database.execute(
                "SELECT coalesce(max(version), 0) FROM publishes WHERE author = ? AND name = ?", (author, name)
            ).fetchone()
        return int(version)

    def send_rate(self, relay: str) -> float | None:
        """Events a second that a relay took when it was last sent many; None if it never was."""
        with self._translated():
            row = self._database.execute("SELECT events_per_s FROM rates WHERE relay = ?", (relay,)).fetchone()
        return row[0] if row else None

    def record_send_rate(self, relay: str, events_per_s: float) -> None:
        """Remember how fast a relay is."""
        with self._translated():
            self._database.execute("INSERT OR REPLACE INTO rates VALUES (?, ?)", (relay, events_per_s))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from None
