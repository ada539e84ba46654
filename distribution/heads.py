"""Heads of a name: the query for them, and which of them count.

A head counts if a relay returns the release that it names, the release verifies, and both agree. Does network I/O
through a pool.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from distribution.errors import InvalidRelease, NotFound, RandyGPTError
from distribution.events import HEAD_KIND, Head, Release
from relay_client.errors import InvalidEvent
from relay_client.event import Event, claimed_id
from relay_client.event_source import EventSource, describe_lack
from relay_client.filter import Filter

_HEADS_PER_RELAY = 10  # an honest relay returns one


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundHead:
    """A verified head and the relay that returned it."""

    url: str
    head: Head
    event: Event


def heads_filter(author: bytes, name: str) -> Filter:
    """Return the filter that asks for the heads of an author's name."""
    return Filter(authors=(author,), kinds=(HEAD_KIND,), tags={"d": (name,)}, limit=_HEADS_PER_RELAY)


def read_heads(
    answers: Iterable[tuple[str, Mapping[str, object]]], author: bytes, name: str, *, now: int
) -> tuple[list[FoundHead], list[Exception]]:
    """Verify the answers to `heads_filter`.

    Args:
        answers: (relay, raw event) pairs, as `Pool.query` returns them.
        author: X-only public key, 32 bytes.
        name: Model name.
        now: Seconds since 1970.

    Returns:
        The valid heads of this author and name, and one error for each answer that is not one.
    """
    found: list[FoundHead] = []
    errors: list[Exception] = []
    for url, raw_event in answers:
        try:
            event = Event.parse(raw_event)
            head = Head.parse(event, now=now)
        except (InvalidEvent, InvalidRelease) as error:
            errors.append(error)
            continue
        if (head.author, head.name) == (author, name):
            found.append(FoundHead(url=url, head=head, event=event))
        else:
            errors.append(InvalidRelease("the head belongs to another author or name"))
    return found, errors


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedHeads:
    """Result of checking the heads of a name, from the highest version down to the first that counts."""

    releases: Mapping[bytes, Release]  # by id of the head: the heads that count
    refused: Mapping[bytes, RandyGPTError]  # by id of the head: why it does not count


async def check_heads(
    pool: EventSource, heads: Collection[Head], *, now: int, follow_hints: bool = True
) -> CheckedHeads:
    """Check which of the highest heads count.

    Slow relays are waited for only if no head counts without them, as in `Pool.gather`.

    Args:
        pool: Open pool of relays to ask for the releases.
        heads: Heads of one author and name.
        now: Seconds since 1970; releases from the future do not verify.
        follow_hints: Let relays that heads name join the pool, if the others lack a release.
    """
    checked = await _check_heads(pool, heads, now=now, follow_hints=follow_hints, patient=False)
    if checked.refused and not checked.releases and pool.owes_answers:
        return await _check_heads(pool, heads, now=now, follow_hints=False, patient=True)
    return checked


async def _check_heads(
    pool: EventSource, heads: Collection[Head], *, now: int, follow_hints: bool, patient: bool
) -> CheckedHeads:
    releases: dict[bytes, Release] = {}
    refused: dict[bytes, RandyGPTError] = {}
    for version in sorted({head.version for head in heads}, reverse=True):
        same = [head for head in heads if head.version == version]
        if follow_hints:
            pool.add_hints(hint for head in same for hint in head.hints)
        events, rejected = await gather_signed(pool, {head.release_id for head in same}, patient=patient)
        for head in same:
            try:
                releases[head.id] = _named_release(pool, head, events, rejected, now)
            except (InvalidRelease, NotFound) as error:
                refused[head.id] = error
        if releases:
            break
    return CheckedHeads(releases=releases, refused=refused)


async def gather_signed(
    pool: EventSource, ids: Iterable[bytes], *, patient: bool = True
) -> tuple[dict[bytes, Event], dict[bytes, str]]:
    """Gather events by id, and verify them with their signatures; `patient` as in `Pool.gather`.

    Returns:
        The events by id, and for ids of which only invalid events came, why the last of them was rejected.
    """
    found: dict[bytes, Event] = {}
    rejected: dict[str, str] = {}  # claimed event id in hex -> reason

    def offer(url: str, raw_event: Mapping[str, object]) -> bool:
        try:
            event = Event.parse(raw_event)
        except InvalidEvent as error:
            rejected[claimed_id(raw_event)] = f"{url}: {error}"
            return False
        found[event.id] = event
        return True

    missing = await pool.gather(ids, offer, patient=patient)
    return found, {event_id: rejected[event_id.hex()] for event_id in missing if event_id.hex() in rejected}


def _named_release(
    pool: EventSource, head: Head, events: Mapping[bytes, Event], rejected: Mapping[bytes, str], now: int
) -> Release:
    """Return the release that a head names; raises InvalidRelease or NotFound if the head does not count."""
    if reason := rejected.get(head.release_id):
        raise InvalidRelease(f"the release does not verify: {reason}")
    if head.release_id not in events:
        raise NotFound(describe_lack(pool, f"the release: {head.release_id.hex()}"))
    release = Release.parse(events[head.release_id], now=now)
    if not head.names(release):
        raise InvalidRelease(f"the head of {head.name!r} does not match the release that it names")
    return release
