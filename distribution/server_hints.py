"""Blossom servers that an author lists for all programs (BUD-03, kind 10063). Network I/O through a pool."""

import contextlib
from collections.abc import Iterable

from relay_client.blossom.server_list import SERVER_LIST_KIND, listed_servers
from relay_client.errors import InvalidEvent
from relay_client.event import Event, latest_event
from relay_client.event_source import Answer, EventSource
from relay_client.filter import Filter


async def query_servers(pool: EventSource, author: bytes) -> list[str]:
    """Return the servers in the newest list of `author` that relays have; untrusted, and empty without a list."""
    wanted = Filter(authors=(author,), kinds=(SERVER_LIST_KIND,), limit=1)
    answers = await pool.query_soon(
        wanted, enough=lambda found: bool(read_servers(found, author)), late=[], may_fail=True
    )
    return read_servers(answers, author)


def read_servers(answers: Iterable[Answer], author: bytes) -> list[str]:
    """Return the servers in the newest list of `author` among unverified events."""
    events = []
    for _, raw_event in answers:
        with contextlib.suppress(InvalidEvent):
            events.append(Event.parse(raw_event))
    latest = latest_event(events, kind=SERVER_LIST_KIND, author=author)
    return listed_servers(latest) if latest else []
