"""Deletion of a revoked release's blobs from Blossom servers, except those that other releases of its author name.

Does network I/O.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from distribution.errors import CallerError
from distribution.events import Release
from distribution.manifest_fetch import find_manifest
from distribution.published import MAX_PUBLISHED, query_published
from relay_client.blossom.authorizer import Authorizer
from relay_client.blossom.client import BlossomClient
from relay_client.blossom.token import Verb
from relay_client.errors import InvalidSigned, PeerError, SignerRefused, TransportError
from relay_client.event import EventSigner
from relay_client.pool import Pool
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnBlobs:
    """Blobs of an author's releases that are not revoked."""

    releases: Mapping[bytes, Release]  # by event id
    blobs: Mapping[bytes, frozenset[bytes]]  # hashes of the blobs of each release

    def only_of(self, release_id: bytes) -> list[bytes]:
        """Return the hashes of the blobs that no other release names; none if the release is unknown."""
        others = (blobs for other, blobs in self.blobs.items() if other != release_id)
        return sorted(self.blobs.get(release_id, frozenset()).difference(*others))


async def find_own_blobs(pool: Pool, author: bytes, *, now: int) -> OwnBlobs:
    """Return the blobs of all releases of an author that the relays have and that are not revoked.

    Call it before the revocation: relays delete the release then.

    Raises:
        CallerError: The author has too many releases to be sure that none names a blob.
        PeerError, NotFound: The manifest of a release cannot be read, so it may name any blob.
    """
    found = [each for each in await query_published(pool, author, now=now) if each.release]
    if len(found) >= MAX_PUBLISHED:
        raise CallerError(f"{len(found)} releases on the relays: blobs that others of them name cannot be told")
    releases = {each.release.id: each.release for each in found if each.release and not each.revoked}
    blobs = {}
    for release in releases.values():
        manifest = (await find_manifest(pool, release, ())).manifest
        hashes = {blob.sha256 for file in manifest.files for blob in manifest.blobs(file)}
        blobs[release.id] = frozenset({*hashes, release.manifest_sha256})
    return OwnBlobs(releases=releases, blobs=blobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """Result of a deletion at one server, in blobs."""

    deleted: int = 0
    absent: int = 0  # the server did not have them
    reason: str = ""  # why it did not delete the others


async def delete_blobs(
    origins: Sequence[str],
    hashes: Sequence[bytes],
    *,
    signer: EventSigner,
    now: Callable[[], int],
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> dict[str, Deletion]:
    """Ask servers to delete blobs; each token names the blobs and that server alone.

    Args:
        origins: Servers, as `normalize_server` returns them.
        hashes: SHA-256 of each blob.
        signer: Signs as the one who uploaded them.
        now: Clock, in seconds since 1970.
        timeouts: How long to wait for servers.

    Raises what the signer's `sign_event` raises.
    """

    async def delete(origin: str) -> Deletion:
        tokens = Authorizer(signer, Verb.DELETE, hashes=hashes, origins=[origin], now=now)
        deleted = absent = 0
        async with BlossomClient(origin, timeouts=timeouts) as client:
            for digest in hashes:
                try:
                    found = await client.delete(digest, lambda fresh, digest=digest: tokens.header(digest, fresh=fresh))  # type: ignore[misc]
                except (SignerRefused, InvalidSigned):
                    raise
                except (TransportError, PeerError) as error:
                    return Deletion(deleted=deleted, absent=absent, reason=str(error))
                deleted, absent = deleted + found, absent + (not found)
        return Deletion(deleted=deleted, absent=absent)

    return dict(zip(origins, await asyncio.gather(*map(delete, origins)), strict=True))
