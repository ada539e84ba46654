"""Relay lists of authors (NIP-65, kind 10002). No I/O."""

from collections.abc import Iterable, Sequence

from relay_client.errors import CallerError
from relay_client.event import Event, EventDraft, latest_event
from relay_client.url import normalize_url

RELAY_LIST_KIND = 10002
MAX_RELAYS = 10  # NIP-65 recommends two to four


def write_relays(events: Iterable[Event], *, author: bytes) -> list[str]:
    """Return the write relays of the author's latest list among these events; invalid addresses are skipped."""
    latest = latest_event(events, kind=RELAY_LIST_KIND, author=author)
    return listed_write_relays(latest)[:MAX_RELAYS] if latest else []


def listed_write_relays(event: Event) -> list[str]:
    """Return all write relays that a list names, each once; invalid addresses are skipped."""
    return list(dict.fromkeys(filter(None, map(_write_relay, event.tags))))


def extend_relay_list(event: Event | None, urls: Sequence[str], *, now: int) -> EventDraft | None:
    """Return a list with everything that `event` has, and more write relays; None if it names them all.

    A relay that the list names for reading only is named for both.

    Args:
        event: The author's latest list, None without one.
        urls: Relays to name, as `normalize_url` returns them.
        now: Seconds since 1970.
    """
    named = listed_write_relays(event) if event else []
    missing = [url for url in dict.fromkeys(urls) if url not in named]
    if not missing:
        return None
    tags = [tag for tag in (event.tags if event else ()) if _address(tag) not in missing]
    only_read = {_address(tag) for tag in (event.tags if event else ())}
    tags += [("r", url) if url in only_read else ("r", url, "write") for url in missing]
    created_at = max(now, event.created_at + 1) if event else now
    content = event.content if event else ""
    return EventDraft(kind=RELAY_LIST_KIND, created_at=created_at, tags=tuple(tags), content=content)


def _write_relay(tag: Sequence[str]) -> str | None:
    match tag:
        case ["r", _] | ["r", _, "" | "write", *_]:
            return _address(tag)
    return None


def _address(tag: Sequence[str]) -> str | None:
    """Return the relay that a tag names, None for other tags and invalid addresses."""
    if len(tag) < 2 or tag[0] != "r":  # noqa: PLR2004 (name and value)
        return None
    try:
        return normalize_url(tag[1])
    except CallerError:
        return None
