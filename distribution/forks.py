"""Forks of a release: the releases that name it as what they were made from. Network I/O through a pool.

Anybody can sign any number of forks, so those by trusted authors are asked for by author, where no number of others
hides them, and the others are read newest first, up to a limit.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from distribution.errors import InvalidRelease
from distribution.events import RELEASE_KIND, Release
from distribution.trace import query_revocations
from relay_client.errors import InvalidEvent
from relay_client.event import Event
from relay_client.filter import Filter
from relay_client.pool import Pool

MAX_TRUSTED = 1000  # forks by trusted authors
MAX_STRANGERS = 500  # forks by others
SEARCH_S = 60.0

_PAGE = 500  # events in an answer
_LEAST_CUT = 100  # events from which an answer may be cut off; no common relay has a lower limit
_MAX_PAGES = 5  # of each relay
_AUTHORS = 200  # in a request
_DIGEST = 32  # bytes of an id


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A verified release that says it was made from another."""

    release: Release
    role: str  # what the other release is to it: base or merged
    trusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forks:
    """Result of a search for forks."""

    found: tuple[Fork, ...]  # the newest of each author's name, trusted authors first, then newest first
    complete: bool  # False if there may be more by authors who are not trusted
    refused: int  # events that do not verify, are revoked, or name the release wrongly


def find_role(fork: Release, ancestor: Release) -> str:
    """Return what `ancestor` is to a release, base or merged; empty if it is not named, or with another author."""
    roles = {each: role for role, each in reversed(fork.lineage.ancestors) if each.release_id == ancestor.id}
    return next((role for each, role in roles.items() if each.author == ancestor.author), "")


def newest_of_each_name(
    releases: Iterable[Release], ancestor: Release, trusted: Collection[bytes], revoked: Collection[bytes] = ()
) -> tuple[Fork, ...]:
    """Return the forks of `ancestor` among releases: the highest version of each author's name, trusted ones first."""
    newest: dict[tuple[bytes, str], Release] = {}
    for release in releases:
        key = (release.author, release.name)
        other = newest.get(key)
        is_newer = other is None or (release.version, release.created_at) > (other.version, other.created_at)
        if is_newer and release.id not in revoked and find_role(release, ancestor):
            newest[key] = release
    forks = [
        Fork(release=each, role=find_role(each, ancestor), trusted=each.author in trusted) for each in newest.values()
    ]
    return tuple(sorted(forks, key=lambda fork: (not fork.trusted, -fork.release.created_at, fork.release.id)))


async def query_forks(
    pool: Pool, ancestor: Release, *, trusted: Collection[bytes], only_trusted: bool, now: int
) -> Forks:
    """Return the forks of a release that the relays of an open pool have.

    Args:
        pool: Relays to ask.
        ancestor: The release.
        trusted: Keys of the authors whom the user trusts.
        only_trusted: Leave out the others.
        now: Seconds since 1970.
    """
    search = _Search(pool, ancestor, now)
    authors = sorted(trusted)
    batches = [tuple(authors[start : start + _AUTHORS]) for start in range(0, len(authors), _AUTHORS)]
    complete, revoked = False, dict[bytes, str]()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SEARCH_S):
            ends = [await search.read_pages(batch, room=MAX_TRUSTED) for batch in batches]
            if not only_trusted:
                ends.append(await search.read_pages((), room=MAX_STRANGERS))
            signers = {each: {release.author} for each, release in search.releases.items()}
            revoked = await query_revocations(pool, signers, now=now)
            complete = all(ends)
    found = newest_of_each_name(search.releases.values(), ancestor, trusted, revoked)
    return Forks(found=found, complete=complete, refused=len(search.refused) + len(revoked))


@dataclass(slots=True)
class _Search:
    """State of one search."""

    pool: Pool
    ancestor: Release
    now: int
    releases: dict[bytes, Release] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)  # ids in hex

    async def read_pages(self, authors: tuple[bytes, ...], *, room: int) -> bool:
        """Read up to `room` forks by some authors, or by all; return whether the relays have no more."""
        most = len(self.releases) + room
        first = Filter(kinds=(RELEASE_KIND,), authors=authors, tags={"b": (self.ancestor.id.hex(),)}, limit=_PAGE)
        pages = dict.fromkeys(self.pool.urls, first)
        times: dict[str, set[tuple[int, bytes]]] = defaultdict(set)  # of the verified events of a page

        def read(url: str, raw_event: Mapping[str, object]) -> bool:
            if event := self._verify(raw_event, authors):
                times[url].add((event.created_at, event.id))
                self._keep(event)
            return len(self.releases) >= most

        for _ in range(_MAX_PAGES):
            before = dict(times)
            times.clear()
            await self.pool.stream(pages, read)
            if len(self.releases) >= most:
                return False
            pages = {
                url: replace(first, until=min(page)[0])
                for url, page in times.items()
                if len(page) >= _LEAST_CUT and not page <= before.get(url, set())
            }
            if not pages:
                return True
        return False

    def _verify(self, raw_event: Mapping[str, object], authors: Collection[bytes]) -> Event | None:
        """Return a verified event that was asked for, None for anything else."""
        with contextlib.suppress(InvalidEvent):
            event = Event.parse(raw_event)
            if event.kind == RELEASE_KIND and (not authors or event.pubkey in authors):
                return event
        self.refused.add(str(raw_event.get("id"))[: 2 * _DIGEST])
        return None

    def _keep(self, event: Event) -> None:
        with contextlib.suppress(InvalidRelease):
            release = Release.parse(event, now=self.now)
            if find_role(release, self.ancestor):
                self.releases[release.id] = release
                return
        self.refused.add(event.id.hex())
