"""Tables of the journal, and their upgrade from older versions. Does disk I/O through an open database."""

import sqlite3
from pathlib import Path

from distribution.chunking import CHUNK_SIZE
from distribution.state_file import newer_state

JOURNAL_VERSION = 5

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
    blob_size INTEGER,          -- null: no file is cut into blobs
    servers TEXT NOT NULL DEFAULT '[]',
    part_size INTEGER NOT NULL DEFAULT 46080,
    tags TEXT NOT NULL DEFAULT '[]',
    chunk_author BLOB,          -- null: the author
    PRIMARY KEY (author, name, version)
) STRICT;
CREATE TABLE IF NOT EXISTS chunk_signatures (
    author BLOB NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    signatures BLOB NOT NULL,
    PRIMARY KEY (author, name, version)
) STRICT;
CREATE TABLE IF NOT EXISTS signatures (
    event_id BLOB PRIMARY KEY,
    signature BLOB NOT NULL     -- of a remote signer
) STRICT;
CREATE TABLE IF NOT EXISTS checkpoints (
    weights BLOB PRIMARY KEY,   -- SHA-256 of the segment
    release BLOB NOT NULL,      -- the last that has it
    author BLOB NOT NULL,
    hint TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS rates (
    relay TEXT PRIMARY KEY,
    events_per_s REAL NOT NULL  -- that it accepted when it was last sent many
) STRICT;
"""
_ADDED = {  # columns that older journals lack
    "expires": "INTEGER",
    "blob_size": "INTEGER",
    "servers": "TEXT NOT NULL DEFAULT '[]'",
    "part_size": f"INTEGER NOT NULL DEFAULT {CHUNK_SIZE}",
    "tags": "TEXT NOT NULL DEFAULT '[]'",
    "chunk_author": "BLOB",
}


def upgrade(database: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to the present schema version; a journal without a number has version 1."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > JOURNAL_VERSION:
        raise newer_state(path, version, JOURNAL_VERSION)
    if version == JOURNAL_VERSION:
        return
    database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")  # one transaction waits for the disk once
    columns = {column for _, column, *_ in database.execute("PRAGMA table_info(publishes)")}
    for column in _ADDED.keys() - columns:
        database.execute(f"ALTER TABLE publishes ADD COLUMN {column} {_ADDED[column]}")
    database.execute(f"PRAGMA user_version = {JOURNAL_VERSION}")
    database.execute("COMMIT")
