"""Relay lists of authors (NIP-65, kind 10002). No I/O."""

from collections.abc import Iterable

from relay_client.errors import CallerError
from relay_client.event import Event, latest_event
from relay_client.url import normalize_url

RELAY_LIST_KIND = 10002
MAX_RELAYS = 10  # NIP-65 recommends two to four


def write_relays(events: Iterable[Event], *, author: bytes) -> list[str]:
    """Return the write relays of the author's latest list among these events; invalid addresses are skipped."""
    latest = latest_event(events, kind=RELAY_LIST_KIND, author=author)
    if not latest:
        return []
    urls: dict[str, None] = {}
    for tag in latest.tags:
        match tag:
            case ["r", raw_url] | ["r", raw_url, "" | "write", *_]:
                try:
                    urls[normalize_url(raw_url)] = None
                except CallerError:
                    continue
    return list(urls)[:MAX_RELAYS]
