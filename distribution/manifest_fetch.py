"""Manifest of a release: from relays, which have it in every case, else from Blossom servers. Does network I/O."""

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distribution.chunking import decode
from distribution.errors import InvalidChunk, InvalidManifest, InvalidRelease, NotFound, PeerError, TransportError
from distribution.event_archive import EventArchive
from distribution.events import CHUNK_KIND, MAX_MANIFEST_SIZE, Release
from distribution.heads import gather_signed
from distribution.manifest import Manifest
from relay_client.event import Event
from relay_client.event_source import EventSource, describe_lack

if TYPE_CHECKING:  # it imports an HTTP client
    from relay_client.blossom.client import BlossomClient


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundManifest:
    """A verified manifest, and how it came."""

    manifest: Manifest
    encoded: bytes
    events: Sequence[Event]  # that carry it, in order; none if it came from a server

    def keep(self, archive: EventArchive, release: Release) -> None:
        """Store it, so that the release can be reseeded; raises OSError."""
        if self.events:
            archive.keep_manifest(release.id, self.events)
        else:
            archive.keep_manifest_bytes(release.id, self.encoded)


async def gather_verified(pool: EventSource, ids: Sequence[bytes], what: str) -> dict[bytes, Event]:
    """Gather events by id and verify them.

    Args:
        pool: Open pool of relays.
        ids: Ids of the events.
        what: What they are, for errors.

    Raises:
        InvalidRelease: Only invalid ones came.
        NotFound: No relay has all of them.
    """
    found, rejected = await gather_signed(pool, ids)
    missing = [event_id for event_id in ids if event_id not in found]
    for event_id in missing:
        if reason := rejected.get(event_id):
            raise InvalidRelease(f"the {what} does not verify: {reason}")
    if missing:
        raise NotFound(describe_lack(pool, f"the {what}: {missing[0].hex()}"))
    return found


async def find_manifest(pool: EventSource, release: Release, servers: "Iterable[BlossomClient]") -> FoundManifest:
    """Return the verified manifest of a release.

    Args:
        pool: Open pool of relays.
        release: The release.
        servers: Servers to ask if relays lack it.

    Raises:
        PeerError: It does not verify, or breaks the protocol.
        NotFound: Neither relays nor servers have it.
    """
    pool.add_hints(release.hints)
    events: Sequence[Event] = ()
    try:
        found = await gather_verified(pool, release.manifest_ids, "manifest")
    except (NotFound, InvalidRelease):
        encoded = await _from_servers(release, servers)
        if encoded is None:
            raise
    else:
        events = [found[event_id] for event_id in release.manifest_ids]
        encoded = _join(release, events)
    manifest = Manifest.decode(encoded)
    if manifest.size != release.size:
        raise InvalidManifest("the files do not add up to the size in the release")
    return FoundManifest(manifest=manifest, encoded=encoded, events=events)


def _join(release: Release, events: Iterable[Event]) -> bytes:
    """Return the manifest that its verified events carry; raises InvalidManifest."""
    parts, size = [], 0
    for event in events:
        if event.kind != CHUNK_KIND or event.pubkey != release.author:
            raise InvalidManifest("a part of the manifest is not a chunk signed by the author of the release")
        try:
            part = decode(event.content)
        except InvalidChunk as error:
            raise InvalidManifest(f"in a part of the manifest, {error}") from None
        size += len(part)
        if size > MAX_MANIFEST_SIZE:
            raise InvalidManifest(f"the manifest has more than {MAX_MANIFEST_SIZE:,} bytes")
        parts.append(part)
    encoded = b"".join(parts)
    if hashlib.sha256(encoded).digest() != release.manifest_sha256:
        raise InvalidManifest("the manifest does not match the hash in the release")
    return encoded


async def _from_servers(release: Release, servers: "Iterable[BlossomClient]") -> bytes | None:
    """Return the manifest from the first server that has it, verified by its hash; None if none does."""
    for client in servers:
        with contextlib.suppress(PeerError, TransportError):
            return await client.get(release.manifest_sha256, max_size=MAX_MANIFEST_SIZE)
    return None
