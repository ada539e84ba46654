"""Revoke use case: publish a deletion request (NIP-09), and point the name at the latest version that is left.

Does network I/O through a pool, and disk I/O through the file of seen versions.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from distribution.clock import check_clock
from distribution.errors import CallerError, InvalidRelease, NotFound, NotPublished
from distribution.events import FILE_KIND, HEAD_KIND, RELEASE_KIND, Head, Release
from distribution.head_writer import HeadWriter
from distribution.published import query_all
from distribution.revocation import find_revocation, query_revoked, revocation_draft
from distribution.seen_versions import SeenVersions
from distribution.trust import latest
from relay_client.errors import InvalidEvent
from relay_client.event import MAX_TIMESTAMP, Event, EventSigner
from relay_client.filter import Filter
from relay_client.nip11 import fetch_relay_infos
from relay_client.nip19 import AddressReference, EventReference
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport

_FILE_EVENTS = 100  # of one release; each publish to other servers makes new ones


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedVersion:
    """A revoked version, as its release or a head describes it."""

    id: bytes  # event id of the release
    name: str = ""  # empty if it was revoked before, and only its id is left
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """Result of a revocation."""

    release: RevokedVersion
    already: bool  # it was revoked before
    latest: Release | None  # what the name points to now; None if every version is revoked
    relays: Mapping[str, RelayReport]
    unconfirmed: frozenset[str]  # URLs of relays that accepted the revocation but do not return it


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoker:
    """Revokes releases of one author on the relays of an open pool.

    Args:
        pool: Open pool of relays.
        versions: Seen versions of this machine.
        key: Signs as the author.
        now: Clock, in seconds since 1970.
    """

    pool: Pool
    versions: SeenVersions
    key: EventSigner
    now: Callable[[], int]

    async def revoke(self, reference: EventReference | AddressReference, *, reason: str = "") -> Revoked:
        """Revoke a release, and point its name at the highest version that is not revoked.

        A head without a valid release, or from the future, can be revoked too: the name is then free again. Revoking a
        release twice sends the first revocation again.

        Args:
            reference: Id of a release, or author and name, which stand for the latest version.
            reason: Shown to readers.

        Raises:
            CallerError: The release belongs to another author, or this machine's clock is wrong.
            NotFound: No relay has it.
            NotPublished: No relay accepted the revocation or the head.
            StoreError: The file of seen versions is damaged.
        """
        if isinstance(reference, AddressReference) and reference.author != self.key.pubkey:
            raise CallerError("that model belongs to another author: only its author can revoke a release")
        infos = await fetch_relay_infos(self.pool.urls, self.pool.timeouts)
        check_clock((info.time for info in infos.values()), now=self.now())
        target = await self._by_id(reference.id) if isinstance(reference, EventReference) else None
        if target and not target.name:
            return await self._resend(target)
        name = reference.name if isinstance(reference, AddressReference) else target.name if target else ""
        address = AddressReference(author=self.key.pubkey, name=name)
        writer = HeadWriter(self.pool, self.key, address.name, now=self.now)
        await writer.read()
        releases = {each.id: each for each in await self._releases(address.name)}
        for each in releases.values():  # the query below covers seen versions only
            await self.versions.record(each)
        known = await query_revoked(self.pool, self.versions, address, writer.heads, now=self.now())
        target = target or self._latest(address.name, writer, known)
        earlier = await find_revocation(self.pool, self.key.pubkey, target.id, now=self.now())
        described = await self._file_events(target.id)
        draft = revocation_draft(target.id, reason=reason, created_at=self.now(), file_events=described)
        revocation = earlier if earlier and not described else await self.key.sign_event(draft)
        await self._send(revocation)
        unconfirmed = await self._unconfirmed(revocation)
        revoked = known | {target.id}
        await self.versions.revoke(address.author, address.name, {target.id})
        left = [each for each in releases.values() if each.id not in revoked]
        best = max(left, key=lambda each: (each.version, each.created_at), default=None)
        if best:
            await writer.send(best, hint=self.pool.urls[0], revoked=revoked)
        else:
            await writer.delete(writer.strays)
        return Revoked(
            release=target,
            already=earlier is not None,
            latest=best,
            relays=self.pool.reports,
            unconfirmed=unconfirmed,
        )

    async def _resend(self, target: RevokedVersion) -> Revoked:
        """Send the revocation of a release again, of which nothing else is left."""
        if revocation := await find_revocation(self.pool, self.key.pubkey, target.id, now=self.now()):
            await self._send(revocation)
        return Revoked(release=target, already=True, latest=None, relays=self.pool.reports, unconfirmed=frozenset())

    def _latest(self, name: str, writer: HeadWriter, revoked: frozenset[bytes]) -> RevokedVersion:
        """Return what the name points to: for readers, or else for relays."""
        strays = [head for head in writer.strays if head.release_id not in revoked]
        head = max(strays, key=lambda each: each.version, default=None) or latest(writer.counting, revoked)
        head = head or max(writer.heads, key=lambda each: each.version, default=None)
        if head is None:
            raise NotFound(f"no relay has a model {name!r} of yours")
        return _version_of(head)

    async def _by_id(self, release_id: bytes) -> RevokedVersion:
        """Return the version that a release, a head or the seen versions describe."""
        for event in await self._query(Filter(ids=(release_id,), limit=1)):
            release = Release.parse(event, now=MAX_TIMESTAMP)
            if release.author != self.key.pubkey:
                raise CallerError("that release belongs to another author: only its author can revoke it")
            return RevokedVersion(id=release.id, name=release.name, version=release.version)
        for _, event in await query_all(self.pool, self.key.pubkey, HEAD_KIND):
            with contextlib.suppress(InvalidRelease):
                head = Head.parse(event, now=MAX_TIMESTAMP)
                if (head.author, head.release_id) == (self.key.pubkey, release_id):
                    return _version_of(head)
        if seen := self.versions.find(self.key.pubkey, release_id):
            name, version = seen
            return RevokedVersion(id=release_id, name=name, version=version)
        if await find_revocation(self.pool, self.key.pubkey, release_id, now=self.now()):
            return RevokedVersion(id=release_id)
        raise NotFound(f"no relay has the release: {release_id.hex()}")

    async def _releases(self, name: str) -> list[Release]:
        """Return all releases of a name that the relays have."""
        found = {}
        for _, event in await query_all(self.pool, self.key.pubkey, RELEASE_KIND):
            with contextlib.suppress(InvalidRelease):
                release = Release.parse(event, now=self.now())
                if release.name == name:
                    found[release.id] = release
        return list(found.values())

    async def _file_events(self, release_id: bytes) -> list[bytes]:
        """Return the ids of the events that describe the files of a release (NIP-94), as the relays have them."""
        author, named = self.key.pubkey, release_id.hex()
        wanted = Filter(authors=(author,), kinds=(FILE_KIND,), tags={"e": (named,)}, limit=_FILE_EVENTS)
        events = await self._query(wanted)
        return [
            event.id
            for event in events
            if (event.pubkey, event.kind) == (author, FILE_KIND) and named in event.tag_values("e")
        ]

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


def _version_of(head: Head) -> RevokedVersion:
    return RevokedVersion(id=head.release_id, name=head.name, version=head.version)
