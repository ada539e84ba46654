"""Lists of an author's Blossom servers (BUD-03, kind 10063). No I/O."""

from collections.abc import Sequence

from relay_client.blossom.address import MAX_SERVERS, normalize_server
from relay_client.errors import CallerError
from relay_client.event import Event, EventDraft

SERVER_LIST_KIND = 10063


def listed_servers(event: Event) -> list[str]:
    """Return the origins that a list names, at most 16; what is no server's address is skipped."""
    return list(dict.fromkeys(filter(None, map(_origin, event.tag_values("server")))))[:MAX_SERVERS]


def extend_list(event: Event | None, origins: Sequence[str], *, now: int) -> EventDraft | None:
    """Return a list with everything that `event` has, and more servers; None if it names them all.

    Args:
        event: The author's latest list, None without one.
        origins: Servers to name, as `normalize_server` returns them.
        now: Seconds since 1970.
    """
    named = {_origin(raw_url) for raw_url in event.tag_values("server")} if event else set()
    missing = [origin for origin in dict.fromkeys(origins) if origin not in named]
    if not missing:
        return None
    tags = (*(event.tags if event else ()), *(("server", origin) for origin in missing))
    created_at = max(now, event.created_at + 1) if event else now
    return EventDraft(kind=SERVER_LIST_KIND, created_at=created_at, tags=tags, content=event.content if event else "")


def _origin(raw_url: str) -> str | None:
    try:
        return normalize_server(raw_url)
    except CallerError:
        return None
