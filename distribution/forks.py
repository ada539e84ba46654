"""Forks of a release: the releases that name it as what they were made from. Network I/O through a pool.

Anybody can sign any number of forks, so those by trusted authors are asked for by author, where no number of others
hides them, and the others are read newest first, up to a limit.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from distribution.errors import InvalidRelease
from distribution.event_tags import MAX_FUTURE_S
from distribution.events import RELEASE_KIND, Release
from distribution.paged_reader import PagedReader, ReadLimits
from distribution.revocation import query_revocations
from relay_client.batches import batched
from relay_client.errors import InvalidEvent
from relay_client.event import Event, claimed_id
from relay_client.filter import Filter
from relay_client.pool import Pool

MAX_TRUSTED = 1000  # forks by trusted authors
MAX_STRANGERS = 500  # forks by others
LIMITS = ReadLimits(events=2_500)  # of each relay

_OVERFLOWED = "more forks exist: only the newest were read (--trusted reads those by authors you trust)"
_AUTHORS = 200  # in a request
_ID_DIGITS = 64  # of an id in hex


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
    incomplete: tuple[str, ...]  # why there may be more, a line each
    refused: int  # events that do not verify, are revoked, or name the release wrongly

    @property
    def complete(self) -> bool:
        """Whether all relays answered, and nothing was cut off."""
        return not self.incomplete


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
    search, reader = _Search(ancestor, now), PagedReader(pool, LIMITS)
    for authors in batched(sorted(trusted), _AUTHORS):
        search.begin(authors, MAX_TRUSTED)
        await reader.within_limit(search.read(reader), "reading forks by trusted authors")
    if not only_trusted:
        search.begin((), MAX_STRANGERS)
        await reader.within_limit(search.read(reader), "reading forks")
    revoked: dict[bytes, str] = {}

    async def find_revoked() -> None:
        signers = {each: {release.author} for each, release in search.releases.items()}
        revoked.update(await query_revocations(pool, signers, now=now))

    await reader.within_limit(find_revoked(), "reading revocations")
    found = newest_of_each_name(search.releases.values(), ancestor, trusted, revoked)
    incomplete = (*reader.incomplete, *([_OVERFLOWED] if search.overflowed else []))
    return Forks(found=found, incomplete=incomplete, refused=len(search.refused) + len(revoked))


@dataclass(slots=True)
class _Search:
    """What one search has found so far."""

    ancestor: Release
    now: int
    releases: dict[bytes, Release] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)  # ids in hex
    overflowed: bool = False  # more forks than a search keeps
    _authors: Collection[bytes] = ()
    _most: int = 0

    def begin(self, authors: Collection[bytes], room: int) -> None:
        """Look for the forks by some authors next, or by all; keep up to `room` more."""
        self._authors, self._most = authors, len(self.releases) + room

    async def read(self, reader: PagedReader) -> None:
        """Read all pages from all relays, within the reader's limits."""
        wanted = Filter(
            kinds=(RELEASE_KIND,),
            authors=tuple(self._authors),
            tags={"b": (self.ancestor.id.hex(),)},
            until=self.now + MAX_FUTURE_S,
            limit=reader.limits.page,
        )
        await reader.read_pages(dict.fromkeys(reader.pool.urls, wanted), self._keep)

    def _keep(self, _url: str, raw_event: Mapping[str, object]) -> None:
        try:
            release = Release.parse(Event.parse(raw_event), now=self.now)
        except (InvalidEvent, InvalidRelease):
            self.refused.add(claimed_id(raw_event)[:_ID_DIGITS])
            return
        if (self._authors and release.author not in self._authors) or not find_role(release, self.ancestor):
            self.refused.add(release.id.hex())
        elif release.id in self.releases or len(self.releases) < self._most:
            self.releases[release.id] = release
        else:
            self.overflowed = True
