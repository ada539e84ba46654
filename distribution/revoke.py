"""Take a release back: say so (NIP-09), and point the name at the last good one. Does network I/O through a pool."""

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

_RELEASES = 500  # what relays give at most; of an author, newest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """What a revocation ended with."""

    release: Release
    latest: Release | None  # what the name leads to now; None if nothing good is left
    relays: Mapping[str, RelayReport]
    hidden: frozenset[str]  # relays that took the revocation and do not give it out


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoker:
    """Takes back releases of one author on the relays of a pool."""

    pool: Pool
    versions: SeenVersions
    key: SecretKey
    now: Callable[[], int]  # seconds since 1970

    async def revoke(self, reference: EventReference | AddressReference, *, reason: str = "") -> Revoked:
        """Take back one release, or the latest of a name; what it leaves is the newest version that is still good.

        Raises CallerError for a release of somebody else, NotFound, NotPublished and StoreError.
        """
        if isinstance(reference, AddressReference) and reference.author != self.key.pubkey:
            raise CallerError("that model is somebody else's: only its author can take a release back")
        release = await self._find(reference)
        address = AddressReference(author=release.author, name=release.name)
        releases = {each.id: each for each in await self._releases(release.name)} | {release.id: release}
        heads = await self._heads(release.name)
        for each in releases.values():  # whatever was not asked about would count as good
            await self.versions.record(each)
        known = await query_revoked(self.pool, self.versions, address, heads, now=self.now())
        revocation = revocation_draft(release, reason=reason, created_at=self.now()).sign(self.key)
        await self._send(revocation)
        hidden = await self._hidden(revocation)
        await self.versions.revoke(release.author, release.name, {release.id})
        good = [each for each in releases.values() if each.id not in known | {release.id}]
        best = max(good, key=lambda each: (each.version, each.created_at), default=None)
        if best:
            created_at = max([self.now(), *(head.created_at + 1 for head in heads)])
            await self._send(head_draft(best, hint=self.pool.urls[0], created_at=created_at).sign(self.key))
        return Revoked(release=release, latest=best, relays=self.pool.reports, hidden=hidden)

    async def _find(self, reference: EventReference | AddressReference) -> Release:
        if isinstance(reference, AddressReference):
            seen = self.versions.seen(reference.author, reference.name)
            head = latest(await self._heads(reference.name), seen.revoked)
            if head is None:
                raise NotFound(f"no relay knows a model {reference.name!r} of yours")
            reference = EventReference(id=head.release_id)
        for event in await self._ask(Filter(ids=(reference.id,), limit=1)):
            release = Release.parse(event, now=self.now())
            if release.author != self.key.pubkey:
                raise CallerError("that release is somebody else's: only its author can take it back")
            return release
        raise NotFound(f"no relay has the release: {reference.id.hex()}")

    async def _releases(self, name: str) -> list[Release]:
        """All releases of a name that the relays still have."""
        found = []
        for event in await self._ask(Filter(authors=(self.key.pubkey,), kinds=(RELEASE_KIND,), limit=_RELEASES)):
            with contextlib.suppress(InvalidRelease):
                release = Release.parse(event, now=self.now())
                if (release.author, release.name) == (self.key.pubkey, name):
                    found.append(release)
        return found

    async def _heads(self, name: str) -> list[Head]:
        answers = await self.pool.query(heads_filter(self.key.pubkey, name))
        found, _ = read_heads(answers, self.key.pubkey, name, now=self.now())
        return [each.head for each in found]

    async def _ask(self, wanted: Filter) -> list[Event]:
        """What the relays have, verified, each once."""
        events = {}
        for _, raw_event in await self.pool.query(wanted):
            with contextlib.suppress(InvalidEvent):
                event = Event.parse(raw_event)
                events[event.id] = event
        return list(events.values())

    async def _hidden(self, revocation: Event) -> frozenset[str]:
        async def shown() -> set[str]:
            held = await self.pool.stored_ids([revocation.id])
            return {url for url, ids in held.items() if ids}

        return frozenset(await self.pool.wait_until_readable(shown))

    async def _send(self, event: Event) -> None:
        await self.pool.publish([(event, self.pool.urls)])
        if not self.pool.urls:
            raise NotPublished(f"no relay took it: {self.pool.failures()}")
