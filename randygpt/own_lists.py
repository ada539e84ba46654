"""Events that the user's key has on relays for all nostr programs: its lists (NIP-65, BUD-03, NIP-02), its profile.

Does network I/O.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from distribution.server_hints import read_servers
from randygpt.errors import CallerError, InvalidEvent, NotFound, NotPublished
from relay_client.blossom.server_list import SERVER_LIST_KIND, extend_list, listed_servers
from relay_client.event import Event, EventDraft, EventSigner, Signer, latest_event
from relay_client.event_source import Answer
from relay_client.filter import Filter
from relay_client.keys import local_key
from relay_client.nip02 import FOLLOW_LIST_KIND, followed_authors
from relay_client.nip65 import RELAY_LIST_KIND, extend_relay_list, listed_write_relays, write_relays
from relay_client.pool import Pool
from relay_client.profile import PROFILE_KIND, profile_filter
from relay_client.relay_status import RelayReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedList:
    """A list as relays have it now."""

    entries: Sequence[str]  # origins of servers, or URLs of write relays
    added: int  # number of entries that the list on relays did not name
    relays: Mapping[str, RelayReport]


async def nip65_relays(relays: Sequence[str], key: EventSigner) -> list[str]:
    """Return the write relays in the newest relay list of `key` (NIP-65, kind 10002) that `relays` have.

    Raises:
        NotFound: no relay has a list of this key that names a write relay.
    """
    found = await _query_list(
        relays, key, RELAY_LIST_KIND, lambda answers: write_relays(_events(answers), author=key.pubkey)
    )
    if not found:
        raise NotFound(
            "your relays have no NIP-65 list of this key that names a relay to write to; publish yours with "
            "`randygpt relays publish`"
        )
    return found


async def bud03_servers(relays: Sequence[str], key: EventSigner) -> list[str]:
    """Return the servers in the newest server list of `key` (BUD-03, kind 10063) that `relays` have.

    Raises:
        NotFound: no relay has a list of this key that names a server.
    """
    found = await _query_list(relays, key, SERVER_LIST_KIND, lambda answers: read_servers(answers, key.pubkey))
    if not found:
        raise NotFound(
            "your relays have no server list (kind 10063) of this key; publish yours with `randygpt servers publish`"
        )
    return found


async def publish_servers(
    relays: Sequence[str], key: EventSigner, origins: Sequence[str], *, now: int
) -> PublishedList:
    """Add servers to the server list of `key` (BUD-03, kind 10063) on relays; what it names already stays.

    Args:
        relays: Where the list is read and published.
        key: Signs as the author.
        origins: Servers, as `normalize_server` returns them.
        now: Seconds since 1970.

    Raises:
        NotPublished: A relay cannot be asked for its list, or no relay accepts and returns the new one.
        TransportError: No relay can be reached.
    """

    def extend(latest: Event | None) -> EventDraft | None:
        if not latest and not origins:
            raise CallerError("no servers to publish")
        return extend_list(latest, origins, now=now)

    replaced = await replace_event(relays, key, SERVER_LIST_KIND, extend)
    event, latest = replaced.event, replaced.latest
    added = len(event.tags) - len(latest.tags if latest else ())
    return PublishedList(entries=listed_servers(event), added=added, relays=replaced.relays)


async def publish_relays(relays: Sequence[str], key: EventSigner, urls: Sequence[str], *, now: int) -> PublishedList:
    """Add write relays to the relay list of `key` (NIP-65, kind 10002) on relays; what it names already stays.

    Args:
        relays: Where the list is read and published.
        key: Signs as the author.
        urls: Relays to add, as `normalize_url` returns them.
        now: Seconds since 1970.

    Raises:
        NotPublished: A relay cannot be asked for its list, or no relay accepts and returns the new one.
        TransportError: No relay can be reached.
    """
    replaced = await replace_event(
        relays, key, RELAY_LIST_KIND, lambda latest: extend_relay_list(latest, urls, now=now)
    )
    named = listed_write_relays(replaced.event)
    before = listed_write_relays(replaced.latest) if replaced.latest else []
    return PublishedList(entries=named, added=len(named) - len(before), relays=replaced.relays)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacedEvent:
    """A replaceable event as relays have it now."""

    event: Event
    latest: Event | None  # what relays had before, the same event if nothing changed
    relays: Mapping[str, RelayReport]


async def replace_event(
    relays: Sequence[str], key: EventSigner, kind: int, change: Callable[[Event | None], EventDraft | None]
) -> ReplacedEvent:
    """Change the newest event of a replaceable kind that relays have of `key`, and bring it to all of them.

    Args:
        relays: Where the event is read and published.
        key: Signs as the author.
        kind: Kind of the event.
        change: Returns the next event for the newest one, which may be None; None to leave it as it is.

    Raises:
        NotPublished: A relay cannot be asked for its event, or no relay accepts and returns the new one.
        TransportError: No relay can be reached.
    """
    async with Pool(relays, signer=local_key(key)) as pool:
        answers = await pool.query(Filter(authors=(key.pubkey,), kinds=(kind,), limit=1))
        if missing := pool.failure_summary():
            raise NotPublished(
                f"a relay that may have a newer version cannot be asked: {missing}; name the others with --relay"
            )
        latest = latest_event(_events(answers), kind=kind, author=key.pubkey)
        draft = change(latest)
        event = await key.sign_event(draft) if draft else latest
        if not event:
            raise CallerError("nothing to publish")

        async def holders() -> set[str]:
            return {url for url, ids in (await pool.stored_ids([event.id])).items() if event.id in ids}

        held = await holders()
        await pool.publish([(event, [url for url in pool.urls if url not in held])])
        for url in await pool.wait_until_readable(holders):
            pool.drop(url, "accepted the event but does not return it")
        if not pool.urls:
            raise NotPublished(f"no relay has the event: {pool.failure_summary()}")
        return ReplacedEvent(event=event, latest=latest, relays=pool.reports)


async def newest_profile(relays: Sequence[str], pubkey: bytes, *, signer: Signer | None = None) -> Event | None:
    """Return the newest profile of a key (kind 0) that relays have, None without one; raises TransportError.

    `signer` authenticates to relays (NIP-42).
    """
    async with Pool(relays, signer=signer) as pool:
        return latest_event(_events(await pool.query(profile_filter(pubkey))), kind=PROFILE_KIND, author=pubkey)


async def query_followed(pool: Pool, author: bytes) -> list[bytes]:
    """Return the authors in the newest follow list of a key (NIP-02, kind 3) that relays of an open pool have.

    Args:
        pool: Relays to ask, without waiting for slow ones.
        author: X-only public key, 32 bytes.
    """
    wanted = Filter(authors=(author,), kinds=(FOLLOW_LIST_KIND,), limit=1)

    def read(answers: Iterable[Answer]) -> list[bytes]:
        return followed_authors(_events(answers), author=author)

    return read(await pool.query_soon(wanted, enough=lambda found: bool(read(found)), late=[], may_fail=True))


async def _query_list(
    relays: Sequence[str], key: EventSigner, kind: int, read: Callable[[Iterable[Answer]], list[str]]
) -> list[str]:
    """Return what `read` finds in answers with events of one kind by `key`, without waiting for slow relays."""
    wanted = Filter(authors=(key.pubkey,), kinds=(kind,), limit=1)
    async with Pool(relays, signer=local_key(key), wait_for_all=False) as pool:
        answers = await pool.query_soon(wanted, enough=lambda found: bool(read(found)), late=[])
    return read(answers)


def _events(answers: Iterable[Answer]) -> list[Event]:
    found = []
    for _, raw_event in answers:
        with contextlib.suppress(InvalidEvent):
            found.append(Event.parse(raw_event))
    return found
