"""Revocation of releases by deletion requests (NIP-09), to and from events.

The queries do network I/O through a pool; `query_revoked` remembers revocations on disk. The rest does no I/O.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from distribution.errors import InvalidRelease
from distribution.event_tags import check_time
from distribution.events import FILE_KIND, HEAD_KIND, RELEASE_KIND, Head
from distribution.manifest import is_digest
from distribution.seen_versions import SeenVersions
from relay_client.batches import batched
from relay_client.errors import InvalidEvent
from relay_client.event import Event, EventDraft, Tags
from relay_client.event_source import Answer, EventSource
from relay_client.filter import Filter
from relay_client.gather_plan import IDS_PER_REQUEST
from relay_client.hexadecimal import parse_hex
from relay_client.messages import sanitize
from relay_client.nip19 import AddressReference

REVOCATION_KIND = 5
OnRevoked = Callable[[bytes, int, str], None]  # gets the id of a release, its version, and the author's reason

_REVOCATIONS = 10  # of one release; an honest author makes one


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """An author's statement that some of their own events must not be used any more.

    Raises:
        InvalidRelease: An id is not 32 bytes.
    """

    id: bytes  # event id, 32
    author: bytes  # x-only public key, 32
    event_ids: frozenset[bytes]
    reason: str = ""  # safe to print

    def __post_init__(self) -> None:
        if not all(map(is_digest, (self.id, self.author, *self.event_ids))):
            raise InvalidRelease("an id in the revocation is not 32 bytes")

    @classmethod
    def parse(cls, event: Event, *, now: int) -> Self:
        """Parse the revocation in a verified event; raises InvalidRelease. `now` is in seconds since 1970."""
        if event.kind != REVOCATION_KIND:
            raise InvalidRelease(f"kind {event.kind} is not a revocation ({REVOCATION_KIND})")
        check_time(event, now)
        ids = frozenset(filter(None, (parse_hex(value, 32) for value in event.tag_values("e"))))
        return cls(id=event.id, author=event.pubkey, event_ids=ids, reason=sanitize(event.content))


def revocation_draft(
    release_id: bytes, *, reason: str, created_at: int, file_events: Sequence[bytes] = ()
) -> EventDraft:
    """Return the draft of the event by which an author revokes a release.

    Args:
        release_id: Event id of the release.
        reason: Shown to readers.
        created_at: Seconds since 1970.
        file_events: Ids of the events that describe its files (NIP-94); relays delete them too.
    """
    tags: Tags = (("e", release_id.hex()), ("k", str(RELEASE_KIND)))
    if file_events:
        tags += (*(("e", event_id.hex()) for event_id in file_events), ("k", str(FILE_KIND)))
    return EventDraft(kind=REVOCATION_KIND, created_at=created_at, tags=tags, content=reason)


def read_revoked(
    answers: Iterable[Answer], authors: Mapping[bytes, Collection[bytes]], *, now: int
) -> dict[bytes, str]:
    """Return the reasons of revoked releases, by id, from the valid answers; `authors` as in `query_revocations`."""
    revoked: dict[bytes, str] = {}
    for _, raw_event in answers:
        with contextlib.suppress(InvalidEvent, InvalidRelease):  # not a revocation
            revocation = Revocation.parse(Event.parse(raw_event), now=now)
            meant = {each for each in revocation.event_ids & authors.keys() if revocation.author in authors[each]}
            revoked |= dict.fromkeys(meant, revocation.reason)
    return revoked


def heads_deletion_draft(heads: Iterable[Head], *, created_at: int) -> EventDraft:
    """Return the draft of the event by which an author asks relays to delete some of their own heads."""
    tags = (*(("e", head.id.hex()) for head in heads), ("k", str(HEAD_KIND)))
    return EventDraft(kind=REVOCATION_KIND, created_at=created_at, tags=tags, content="dated wrongly")


async def find_revocation(pool: EventSource, author: bytes, release_id: bytes, *, now: int) -> Event | None:
    """Return a revocation of a release by its author, if a relay of an open pool has one; `now`: seconds since 1970."""
    wanted = Filter(authors=(author,), kinds=(REVOCATION_KIND,), tags={"e": (release_id.hex(),)}, limit=_REVOCATIONS)
    for _, raw_event in await pool.query(wanted):
        with contextlib.suppress(InvalidEvent, InvalidRelease):  # not a revocation
            event = Event.parse(raw_event)
            revocation = Revocation.parse(event, now=now)
            if revocation.author == author and release_id in revocation.event_ids:
                return event
    return None


async def query_revocations(
    pool: EventSource,
    authors: Mapping[bytes, Collection[bytes]],
    *,
    now: int,
    late: list[Answer] | None = None,
) -> dict[bytes, str]:
    """Return the reasons of revoked releases, by id, as the relays of an open pool know them.

    Args:
        pool: Relays to ask.
        authors: Keys whose revocation counts, by release id.
        now: Seconds since 1970.
        late: Gets the answers of relays that were not waited for (see `Pool.query_soon`).
    """
    revoked: dict[bytes, str] = {}
    late = [] if late is None else late
    for batch in batched(authors, IDS_PER_REQUEST):
        signers = tuple({author for each in batch for author in authors[each]})
        tags = {"e": tuple(each.hex() for each in batch)}
        wanted = Filter(authors=signers, kinds=(REVOCATION_KIND,), tags=tags, limit=2 * len(batch))
        answers = await pool.query_soon(wanted, enough=lambda _: True, late=late)
        revoked |= read_revoked(answers, authors, now=now)
    return revoked


async def query_revoked(
    pool: EventSource,
    versions: SeenVersions,
    address: AddressReference,
    heads: Iterable[Head],
    *,
    now: int,
    late: list[Answer] | None = None,
    on_revoked: OnRevoked = lambda _id, _version, _reason: None,
) -> frozenset[bytes]:
    """Return the ids of the revoked releases of a name, as far as relays and this machine know, and remember them.

    Args:
        pool: Open pool of relays to ask.
        versions: What this machine has seen.
        address: Author and name.
        heads: Heads of the name; the query covers the releases they name and those seen before.
        now: Seconds since 1970.
        late: Gets the answers of relays that were not waited for (see `Pool.query_soon`).
        on_revoked: Called with each release that was not known to be revoked.

    Raises:
        StoreError: The file of seen versions is damaged.
    """
    seen = versions.seen(address.author, address.name)
    known = {one.release_id: version for version, one in seen.versions.items()}
    known |= {head.release_id: head.version for head in heads}
    authors = dict.fromkeys(sorted(known.keys() - seen.revoked), (address.author,))
    revoked = await query_revocations(pool, authors, now=now, late=late)
    await versions.revoke(address.author, address.name, revoked.keys())
    for release_id, reason in revoked.items():
        if release_id not in seen.revoked:
            on_revoked(release_id, known[release_id], reason)
    return seen.revoked | revoked.keys()
