"""Release that a reference names: the look-up of its id, its version, or the latest head of its name.

Does network I/O through a pool, and remembers on disk what arrived late.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distribution import trust
from distribution.errors import CallerError, InvalidRelease, NotFound, PeerError, TransportError
from distribution.events import HEAD_KIND, Release
from distribution.heads import check_heads, heads_filter, read_heads
from distribution.manifest import is_name
from distribution.manifest_fetch import gather_verified
from distribution.published import find_version
from distribution.resolve import Reference, VersionReference
from distribution.revocation import OnRevoked, query_revoked, read_revoked
from distribution.seen_versions import SeenVersions
from distribution.server_hints import query_write_relays
from distribution.trust import TrustPolicy
from relay_client.errors import quote
from relay_client.event import Event
from relay_client.event_source import Answer, EventSource, describe_lack
from relay_client.nip19 import AddressReference, EventReference, encode_npub


def check_address(address: AddressReference) -> None:
    """Raise CallerError unless the address can be the name of a model."""
    if address.kind not in {None, HEAD_KIND}:
        raise CallerError(f"this naddr names an event of kind {address.kind}, not a model ({HEAD_KIND})")
    if not is_name(address.name):
        raise CallerError(
            f"not the name of a model: {quote(address.name)} (a-z, 0-9, dot, dash, underscore; at most 64)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFinder:
    """Finds releases on the relays of an open pool; `Fetcher` documents the arguments."""

    pool: EventSource
    versions: SeenVersions
    policy: TrustPolicy
    now: Callable[[], int]
    on_warning: Callable[[str], None]
    on_revoked: OnRevoked
    _late: list[Answer] = field(default_factory=list, init=False)  # arrived when the latest version was decided
    _heads: dict[bytes, Event] = field(default_factory=dict, init=False)  # by id of the release that they name

    def head(self, release_id: bytes) -> Event | None:
        """Return the head by which a release was found, if it was."""
        return self._heads.get(release_id)

    async def find(self, reference: Reference) -> Release:
        """Return the verified release that a reference names, if its author and version are acceptable.

        Raises what `Fetcher.fetch` raises.
        """
        self.pool.add_hints(reference.relays)
        if isinstance(reference, EventReference):
            release = await self._by_id(reference.id)
        elif isinstance(reference, AddressReference):
            release = await self._by_address(reference)
        else:
            release = await self._by_version(reference)
        self.policy.check(release.author)
        seen = self.versions.seen(release.author, release.name)
        trust.check_version(release, seen, asked_by_id=not isinstance(reference, AddressReference))
        return release

    async def _by_version(self, reference: VersionReference) -> Release:
        """Return one version of a name: the one that was seen before, else the one that the relays have."""
        author, name, version = reference.author, reference.name, reference.version
        check_address(AddressReference(author=author, name=name))
        self.policy.check(author)
        seen = self.versions.seen(author, name).versions.get(version)
        if seen:
            return await self._by_id(seen.release_id)
        await self.pool.connect_hints()
        return await find_version(self.pool, author, name, version, now=self.now())

    async def _by_address(self, reference: AddressReference) -> Release:
        """Return the release that the author's latest head names; a head without a valid release does not count."""
        check_address(reference)
        self.policy.check(reference.author)
        who = f"{reference.name!r} by {encode_npub(reference.author)}"
        answers = await self._query_heads(reference)
        found, errors = read_heads(answers, reference.author, reference.name, now=self.now())
        own, signed = [each.head for each in found], {each.event.id: each.event for each in found}
        revoked = await query_revoked(
            self.pool, self.versions, reference, own, now=self.now(), late=self._late, on_revoked=self.on_revoked
        )
        left = [head for head in own if head.release_id not in revoked]
        checked = await check_heads(self.pool, left, now=self.now())
        latest = trust.latest([head for head in left if head.id in checked.releases])
        if latest is None:
            if checked.refused:
                raise next(iter(checked.refused.values()))
            if errors:
                raise InvalidRelease(f"{self.pool.lacking} a valid head of {who}: {errors[0]}")
            if own:
                raise NotFound(f"the author revoked every version of {who} that the relays have")
            raise NotFound(describe_lack(self.pool, f"a model {who}"))
        for head in left:
            if error := checked.refused.get(head.id):
                self.on_warning(f"ignored version {head.version} of {head.name}, announced without a release: {error}")
        release = checked.releases[latest.id]
        self._heads[release.id] = signed[latest.id]
        return release

    async def _query_heads(self, address: AddressReference) -> list[Answer]:
        """Query the relays for heads; late answers are kept.

        If none has a head, relays that were hinted at are asked, then those that the author writes to (NIP-65).
        """
        wanted, has_hints = heads_filter(address.author, address.name), self.pool.has_hints

        def has_head(answers: Sequence[Answer]) -> bool:
            return bool(read_heads(answers, address.author, address.name, now=self.now())[0])

        answers = await self.pool.query_soon(wanted, enough=lambda found: has_hints or has_head(found), late=self._late)
        if has_hints and not has_head(answers):
            await self.pool.connect_hints()
            answers += await self.pool.query_soon(wanted, enough=has_head, late=self._late)
        if not has_head(answers):
            self.pool.add_hints(await query_write_relays(self.pool, address.author))
            if await self.pool.connect_hints():
                answers += await self.pool.query_soon(wanted, enough=has_head, late=self._late)
        return answers

    async def record_late(self, release: Release) -> None:
        """Record newer versions and revocations that arrived late, so that they count the next time."""
        author, name, versions = release.author, release.name, self.versions
        found, _ = read_heads(self._late, author, name, now=self.now())
        heads = [each.head for each in found if each.head.version > release.version]
        seen = versions.seen(author, name)
        known = {release.id, *(head.release_id for head in heads), *(one.release_id for one in seen.versions.values())}
        revoked = read_revoked(self._late, dict.fromkeys(known, (author,)), now=self.now()).keys()
        await versions.revoke(author, name, revoked)
        with contextlib.suppress(PeerError, TransportError, TimeoutError):
            left = [head for head in heads if head.release_id not in seen.revoked | revoked]
            async with asyncio.timeout(self.pool.timeouts.settle_s):
                checked = await check_heads(self.pool, left, now=self.now())
            for newer in checked.releases.values():
                await versions.record(newer)

    async def _by_id(self, release_id: bytes) -> Release:
        event = (await gather_verified(self.pool, [release_id], "release"))[release_id]
        return Release.parse(event, now=self.now())
