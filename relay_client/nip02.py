"""Follow lists of authors (NIP-02, kind 3). No I/O."""

from collections.abc import Iterable

from relay_client.event import Event, latest_event
from relay_client.hexadecimal import parse_hex

FOLLOW_LIST_KIND = 3
MAX_FOLLOWED = 2_000  # keys; what a longer list has after them is ignored
_KEY_SIZE = 32  # bytes


def followed_authors(events: Iterable[Event], *, author: bytes) -> list[bytes]:
    """Return the keys in the author's latest list among these events, each once; invalid ones are skipped."""
    latest = latest_event(events, kind=FOLLOW_LIST_KIND, author=author)
    keys = (parse_hex(value, _KEY_SIZE) for value in (latest.tag_values("p") if latest else ()))
    return list(dict.fromkeys(key for key in keys if key))[:MAX_FOLLOWED]
