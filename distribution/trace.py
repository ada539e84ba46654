"""Trace of a model's ancestry through the store and relays. Does network I/O through a pool, and reads the store.

The relays that releases name are strangers' claims: they join the pool under its rules for hints. Depth, number and
time are limited, so that no chain of releases keeps a reader busy.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from distribution.ancestors import Ancestor, Lineage
from distribution.ancestry import Known, claims_in
from distribution.errors import CallerError, InvalidRelease, StoreError
from distribution.events import Release
from distribution.heads import gather_signed
from distribution.local_release import read_release
from distribution.revocation import query_revocations
from distribution.store import Store
from relay_client.event_source import EventSource


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceLimits:
    """Limits of a trace; raises CallerError unless all are above 0."""

    depth: int = 100  # generations
    releases: int = 500
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not min(self.depth, self.releases, self.seconds) > 0:
            raise CallerError("depth, number and seconds of a trace must be above 0")


@dataclass(slots=True, kw_only=True)
class Tracer:
    """Looks for the ancestors of a model, generation by generation.

    Args:
        store: Store whose releases need not be asked for.
        pool: Open pool of relays; None: the store alone.
        now: Seconds since 1970.
        limits: How far to go.
    """

    store: Store
    pool: EventSource | None
    now: int
    limits: TraceLimits = TraceLimits()
    _releases: dict[bytes, Release] = field(default_factory=dict, init=False)
    _asked: set[bytes] = field(default_factory=set, init=False)
    _revoked: dict[bytes, str] = field(default_factory=dict, init=False)

    async def trace(self, start: Release | None, lineage: Lineage) -> Known:
        """Return what is known of an ancestry, incomplete if a limit is reached.

        Args:
            start: The release whose ancestry it is; None for a local file.
            lineage: What the release or the file was made from.

        Raises:
            StoreError: The store is damaged.
        """
        if start:
            self._releases[start.id] = start
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.seconds):
                await self._follow([each for _, each in lineage.ancestors])
                await self._find_revoked(claims_in(self._known(start, lineage)))
        return self._known(start, lineage)

    def _known(self, start: Release | None, lineage: Lineage) -> Known:
        return Known(start=start, lineage=lineage, releases=self._releases, asked=self._asked, revoked=self._revoked)

    async def _follow(self, generation: Iterable[Ancestor]) -> None:
        for _ in range(self.limits.depth):
            wanted = {each.release_id: each for each in generation if each.release_id not in self._releases}
            room = max(0, self.limits.releases - len(self._releases) - len(self._asked - self._releases.keys()))
            found = await self._find([each for each in wanted.values() if each.release_id not in self._asked][:room])
            if not found:
                return
            generation = [each for release in found for _, each in release.lineage.ancestors]

    async def _find(self, wanted: Collection[Ancestor]) -> list[Release]:
        found = [release for each in wanted if (release := self._installed(each.release_id))]
        self._releases |= {release.id: release for release in found}
        missing = [each for each in wanted if each.release_id not in self._releases]
        if not (missing and self.pool):
            return found
        self.pool.add_hints(each.hint for each in missing if each.hint)
        events, _ = await gather_signed(self.pool, [each.release_id for each in missing])
        self._asked |= {each.release_id for each in missing}
        for event in events.values():
            with contextlib.suppress(InvalidRelease):  # an event that is no release
                found.append(Release.parse(event, now=self.now))
        self._releases |= {release.id: release for release in found}
        return found

    def _installed(self, release_id: bytes) -> Release | None:
        installed = self.store.release(release_id)
        if installed is None:
            return None
        with contextlib.suppress(StoreError):  # `verify` reports it; a relay may have it
            return read_release(installed, self.now)
        return None

    async def _find_revoked(self, claims: Mapping[bytes, Collection[Ancestor]]) -> None:
        """Look for revocations by the authors of what was found, and by those who are named of what was not."""
        authors = {release.id: {release.author} for release in self._releases.values()}
        authors |= {each: {claim.author for claim in claims[each]} for each in claims.keys() - authors.keys()}
        for release in self._releases.values():
            if release.id in self.store.seen_versions.seen(release.author, release.name).revoked:
                self._revoked[release.id] = ""
        if self.pool:
            self._revoked |= await query_revocations(self.pool, authors, now=self.now)
