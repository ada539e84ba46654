"""Blossom servers and relays that an author lists for all programs (BUD-03, NIP-65). Network I/O through a pool."""

import contextlib
from collections.abc import Iterable, Iterator

from relay_client.blossom.server_list import SERVER_LIST_KIND, listed_servers
from relay_client.errors import InvalidEvent
from relay_client.event import Event, latest_event
from relay_client.event_source import Answer, EventSource
from relay_client.filter import Filter
from relay_client.nip65 import RELAY_LIST_KIND, write_relays


async def query_servers(pool: EventSource, author: bytes) -> list[str]:
    """Return the servers in the newest list of `author` that relays have; untrusted, and empty without a list."""
    wanted = Filter(authors=(author,), kinds=(SERVER_LIST_KIND,), limit=1)
    answers = await pool.query_soon(
        wanted, enough=lambda found: bool(read_servers(found, author)), late=[], may_fail=True
    )
    return read_servers(answers, author)


def read_servers(answers: Iterable[Answer], author: bytes) -> list[str]:
    """Return the servers in the newest list of `author` among unverified events."""
    latest = latest_event(_verified(answers), kind=SERVER_LIST_KIND, author=author)
    return listed_servers(latest) if latest else []


async def query_write_relays(pool: EventSource, author: bytes) -> list[str]:
    """Return the write relays in the newest relay list of `author`; untrusted, and empty without a list."""
    wanted = Filter(authors=(author,), kinds=(RELAY_LIST_KIND,), limit=1)
    answers = await pool.query_soon(
        wanted, enough=lambda found: bool(write_relays(_verified(found), author=author)), late=[], may_fail=True
    )
    return write_relays(_verified(answers), author=author)


def _verified(answers: Iterable[Answer]) -> Iterator[Event]:
    for _, raw_event in answers:
        with contextlib.suppress(InvalidEvent):
            yield Event.parse(raw_event)
