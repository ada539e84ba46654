"""Revoke use case: publish a deletion request (NIP-09), and point the name at the latest version that is left.

Does network I/O through a pool, and disk I/O through the file of seen versions.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from distribution.errors import CallerError, InvalidRelease, NotFound, NotPublished
from distribution.events import RELEASE_KIND, Head, Release, head_draft, heads_filter, read_heads
from distribution.revocation import query_revoked, revocation_draft
from distribution.seen_versions import SeenVersions
from distribution.trust import latest
from relay_client.errors import InvalidEvent
from relay_client.event import Event
from relay_client.filter import Filter
from relay_client.keys import AddressReference, EventReference, SecretKey
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport

_RELEASES = 500  # common limit of relays; they return the newest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """Result of a revocation."""

    release: Release
    latest: Release | None  # what the name points to now; None if every version is revoked
    relays: Mapping[str, RelayReport]
    unconfirmed: frozenset[str]  # URLs of relays that accepted the revocation but do not return it


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoker:
    """Revokes releases of one author on the relays of an open pool.

    Args:
        pool: Open pool of relays.
        versions: Seen versions of this machine.
        key: Secret key of the author.
        now: Clock, in seconds since 1970.
    """

    pool: Pool
    versions: SeenVersions
    key: SecretKey
    now: Callable[[], int]

    async def revoke(self, reference: EventReference | AddressReference, *, reason: str = "") -> Revoked:
        """Revoke a release, and point its name at the highest version that is not revoked.

        Args:
            reference: Id of a release, or author and name, which stand for the latest version.
            reason: Shown to readers.

        Raises:
            CallerError: The release belongs to another author.
            NotFound: No relay has it.
            NotPublished: No relay accepted the revocation or the head.
            StoreError: The file of seen versions is damaged.
        """
        if isinstance(reference, AddressReference) and reference.author != self.key.pubkey:
            raise CallerError("that model belongs to another author: only its author can revoke a release")
        release = await self._find(reference)
        address = AddressReference(author=release.author, name=release.name)
        releases = {each.id: each for each in await self._releases(release.name)} | {release.id: release}
        heads = await self._heads(release.name)
        for each in releases.values():  # the query below covers seen versions only
            await self.versions.record(each)
        known = await query_revoked(self.pool, self.versions, address, heads, now=self.now())
        revocation = revocation_draft(release, reason=reason, created_at=self.now()).sign(self.key)
        await self._send(revocation)
        unconfirmed = await self._unconfirmed(revocation)
        await self.versions.revoke(release.author, release.name, {release.id})
        left = [each for each in releases.values() if each.id not in known | {release.id}]
        best = max(left, key=lambda each: (each.version, each.created_at), default=None)
        if best:
            created_at = max([self.now(), *(head.created_at + 1 for head in heads)])
            await self._send(head_draft(best, hint=self.pool.urls[0], created_at=created_at).sign(self.key))
        return Revoked(release=release, latest=best, relays=self.pool.reports, unconfirmed=unconfirmed)

    async def _find(self, reference: EventReference | AddressReference) -> Release:
        if isinstance(reference, AddressReference):
            seen = self.versions.seen(reference.author, reference.name)
            head = latest(await self._heads(reference.name), seen.revoked)
            if head is None:
                raise NotFound(f"no relay has a model {reference.name!r} of yours")
            reference = EventReference(id=head.release_id)
        for event in await self._query(Filter(ids=(reference.id,), limit=1)):
            release = Release.parse(event, now=self.now())
            if release.author != self.key.pubkey:
                raise CallerError("that release belongs to another author: only its author can revoke it")
            return release
        raise NotFound(f"no relay has the release: {reference.id.hex()}")

    async def _releases(self, name: str) -> list[Release]:
        """Return all releases of a name that the relays have."""
        found = []
        for event in await self._query(Filter(authors=(self.key.pubkey,), kinds=(RELEASE_KIND,), limit=_RELEASES)):
            with contextlib.suppress(InvalidRelease):
                release = Release.parse(event, now=self.now())
                if (release.author, release.name) == (self.key.pubkey, name):
                    found.append(release)
        return found

    async def _heads(self, name: str) -> list[Head]:
        answers = await self.pool.query(heads_filter(self.key.pubkey, name))
        found, _ = read_heads(answers, self.key.pubkey, name, now=self.now())
        return [each.head for each in found]

    async def _query(self, wanted: Filter) -> list[Event]:
        """Return the verified events that the relays have, each once."""
        events = {}
        for _, raw_event in await self.pool.query(wanted):
            with contextlib.suppress(InvalidEvent):
                event = Event.parse(raw_event)
                events[event.id] = event
        return list(events.values())

    async def _unconfirmed(self, revocation: Event) -> frozenset[str]:
        async def shown() -> set[str]:
            held = await self.pool.stored_ids([revocation.id])
            return {url for url, ids in held.items() if ids}

        return frozenset(await self.pool.wait_until_readable(shown))

    async def _send(self, event: Event) -> None:
        await self.pool.publish([(event, self.pool.urls)])
        if not self.pool.urls:
            raise NotPublished(f"no relay accepted it: {self.pool.failure_summary()}")
