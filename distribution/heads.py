"""What relays say is the latest of a name: how to ask, and what of the answers counts. No I/O; decides nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distribution.errors import InvalidRelease
from distribution.events import HEAD_KIND, Head
from relay_client.errors import InvalidEvent
from relay_client.event import Event
from relay_client.filter import Filter

_PER_RELAY = 10  # an honest relay sends one


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundHead:
    """A verified head, as one relay gave it."""

    url: str
    head: Head
    event: Event


def heads_filter(author: bytes, name: str) -> Filter:
    """How to ask for the heads of an author's name."""
    return Filter(authors=(author,), kinds=(HEAD_KIND,), tags={"d": (name,)}, limit=_PER_RELAY)


def read_heads(
    answers: Iterable[tuple[str, Mapping[str, object]]], author: bytes, name: str, *, now: int
) -> tuple[list[FoundHead], list[Exception]]:
    """The heads of an author's name among (relay, unverified event), and what is wrong with the other answers."""
    found: list[FoundHead] = []
    refusals: list[Exception] = []
    for url, raw_event in answers:
        try:
            event = Event.parse(raw_event)
            head = Head.parse(event, now=now)
        except (InvalidEvent, InvalidRelease) as error:
            refusals.append(error)
            continue
        if (head.author, head.name) == (author, name):
            found.append(FoundHead(url=url, head=head, event=event))
        else:
            refusals.append(InvalidRelease("a head of another author or name"))
    return found, refusals
