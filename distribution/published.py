"""Versions that an author published, as relays and the journal know them. Network I/O through a pool."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from distribution.errors import Equivocation, InvalidRelease, NotFound
from distribution.events import HEAD_KIND, RELEASE_KIND, Head, Release
from distribution.publish_record import PublishRecord
from distribution.revocation import REVOCATION_KIND, Revocation
from distribution.trust import latest
from relay_client.errors import InvalidEvent
from relay_client.event import Event
from relay_client.event_source import EventSource
from relay_client.filter import Filter
from relay_client.nip19 import encode_npub

MAX_PUBLISHED = 500  # events of one kind in a page; common limit of relays, which return the newest first

_LEAST_CUT = 100  # events from which a page may be cut off; no common relay has a lower limit
_MAX_PAGES = 20  # of one kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedVersion:
    """One version that an author published."""

    name: str
    version: int
    created_at: int  # seconds since 1970
    release: Release | None = None  # None: only the journal has it
    relays: tuple[str, ...] = ()  # URLs that returned the release
    latest: bool = False
    revoked: bool = False

    @property
    def title(self) -> str:
        """Name and version, as people read them."""
        return f"{self.name} version {self.version}"


async def find_version(pool: EventSource, author: bytes, name: str, version: int, *, now: int) -> Release:
    """Return one version of an author's name from the relays of an open pool.

    Raises:
        NotFound: No relay has it, or the author revoked it.
        Equivocation: The author signed two releases as this version.
    """
    found = [
        each for each in await query_published(pool, author, now=now) if (each.name, each.version) == (name, version)
    ]
    releases = [each.release for each in found if each.release and not each.revoked]
    if not releases:
        state = "the author revoked" if found else pool.lacking
        raise NotFound(f"{state} version {version} of {name!r} by {encode_npub(author)}")
    if len({release.manifest_sha256 for release in releases}) > 1:
        raise Equivocation(f"the author signed two different releases as version {version} of {name}")
    return min(releases, key=lambda release: (-release.created_at, release.id))


async def query_published(pool: EventSource, author: bytes, *, now: int) -> list[PublishedVersion]:
    """Return the versions of an author's models that the relays of an open pool have.

    Args:
        pool: Relays to ask.
        author: X-only public key, 32 bytes.
        now: Seconds since 1970.
    """
    releases, relays = {}, defaultdict(list)
    for url, event in await query_all(pool, author, RELEASE_KIND):
        with contextlib.suppress(InvalidRelease):
            releases[event.id] = Release.parse(event, now=now)
            relays[event.id].append(url)
    heads = {}
    for _, event in await query_all(pool, author, HEAD_KIND):
        with contextlib.suppress(InvalidRelease):
            heads[event.id] = Head.parse(event, now=now)
    revoked: set[bytes] = set()
    for _, event in await query_all(pool, author, REVOCATION_KIND):
        with contextlib.suppress(InvalidRelease):
            revoked |= Revocation.parse(event, now=now).event_ids
    current = _latest_ids(heads.values(), revoked)
    return [
        PublishedVersion(
            name=release.name,
            version=release.version,
            created_at=release.created_at,
            release=release,
            relays=tuple(dict.fromkeys(relays[release.id])),
            latest=release.id in current,
            revoked=release.id in revoked,
        )
        for release in releases.values()
    ]


def add_recorded(
    versions: Iterable[PublishedVersion], records: Iterable[tuple[str, PublishRecord]]
) -> list[PublishedVersion]:
    """Return versions from relays and those that only the journal has, by name, the newest first.

    Args:
        versions: From `query_published`.
        records: Name and record of each publish, from the journal.
    """
    merged = list(versions)
    known = {(each.name, each.version) for each in merged}
    merged += [
        PublishedVersion(name=name, version=record.version, created_at=record.created_at)
        for name, record in records
        if (name, record.version) not in known
    ]
    return sorted(merged, key=lambda each: (each.name, -each.version, -each.created_at))


async def query_all(pool: EventSource, author: bytes, kind: int) -> list[tuple[str, Event]]:
    """Return the valid events of a kind by an author, with the relay that returned them.

    Each relay is asked for pages, the newest first, until one has nothing new.
    """
    first = Filter(authors=(author,), kinds=(kind,), limit=MAX_PUBLISHED)
    found: dict[tuple[str, bytes], Event] = {}
    pages = dict.fromkeys(pool.urls, first)
    for _ in range(_MAX_PAGES):
        times, progress = defaultdict(list), set()
        for url, raw_event in await pool.query(pages):
            with contextlib.suppress(InvalidEvent):
                event = Event.parse(raw_event)
                if (event.pubkey, event.kind) == (author, kind):
                    times[url].append(event.created_at)
                    if (url, event.id) not in found:
                        progress.add(url)
                    found[url, event.id] = event
        pages = {url: replace(first, until=min(times[url])) for url in progress if len(times[url]) >= _LEAST_CUT}
        if not pages:
            break
    return [(url, event) for (url, _), event in found.items()]


def _latest_ids(heads: Iterable[Head], revoked: set[bytes]) -> set[bytes]:
    """Return the ids of the releases that are the latest of their name."""
    by_name = defaultdict(list)
    for head in heads:
        by_name[head.name].append(head)
    found = set()
    for same in by_name.values():
        with contextlib.suppress(Equivocation):  # two contents of one version: neither is the latest
            if best := latest(same, revoked):
                found.add(best.release_id)
    return found
