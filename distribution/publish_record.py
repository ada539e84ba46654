"""What the journal records of one publish. No I/O."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from distribution.errors import StoreError
from distribution.event_tags import find_further_fault
from distribution.events import MAX_VERSION
from distribution.manifest import is_count, is_digest
from relay_client.event import MAX_TIMESTAMP, Tags

PART_SIZE = 29_952  # bytes of a manifest event: small enough for a remote signer (NIP-46)
COLUMNS = "version, created_at, card, hint, expires, blob_size, servers, part_size, tags, chunk_author"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRecord:
    """One publish in the journal.

    Raises:
        StoreError: The values cannot be those of a publish.
    """

    version: int
    created_at: int  # seconds since 1970, of every event but the head
    card: Mapping[str, object]
    hint: str  # URL of the relay in the tags of the release
    expires: int | None = None  # seconds since 1970
    blob_size: int | None = None  # bytes of the pieces of large files on Blossom servers; None: files are not cut
    servers: tuple[str, ...] = ()  # Blossom servers in the tags of the release
    part_size: int = PART_SIZE  # bytes of a manifest event
    tags: Tags = ()  # further tags of the release
    chunk_author: bytes | None = None  # x-only public key that signed the chunks; None: the author's
    resumed: bool  # whether an earlier run recorded it

    def __post_init__(self) -> None:
        if not is_count(self.version, MAX_VERSION) or not is_count(self.created_at, MAX_TIMESTAMP):
            raise StoreError(f"a publish in the journal has version {self.version} and time {self.created_at}")
        if self.expires is not None and not is_count(self.expires, MAX_TIMESTAMP):
            raise StoreError(f"a publish in the journal expires at {self.expires}")
        if self.chunk_author is not None and not is_digest(self.chunk_author):
            raise StoreError("a publish in the journal has a chunk_author that is not 32 bytes")
        if fault := find_further_fault(self.tags):
            raise StoreError(f"a publish in the journal has unusable tags: {fault}")


def contents_digest(files: list[tuple[str, bytes]]) -> bytes:
    """Return one SHA-256 over the (path, SHA-256) of all files, in any order."""
    return hashlib.sha256(b"".join(path.encode() + b"\0" + sha256 for path, sha256 in sorted(files))).digest()


def parse_record(row: Sequence[Any]) -> PublishRecord:
    """Return the publish in a row of `COLUMNS`."""
    version, created_at, card, hint, expires, blob_size, servers, part_size, tags, chunk_author = row
    return PublishRecord(
        version=version,
        created_at=created_at,
        card=orjson.loads(card),
        hint=hint,
        expires=expires,
        blob_size=blob_size,
        servers=tuple(orjson.loads(servers)),
        part_size=part_size,
        tags=tuple(tuple(tag) for tag in orjson.loads(tags)),
        chunk_author=chunk_author,
        resumed=True,
    )
