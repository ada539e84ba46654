"""Tags that releases and heads have in common, to and from events, and the check of an event's date. No I/O."""

import re
from collections.abc import Iterable

from distribution.errors import InvalidRelease
from relay_client.blossom.address import MAX_SERVERS, is_public_origin
from relay_client.event import Event, Tags
from relay_client.hexadecimal import parse_hex

MAX_FUTURE_S = 900  # as relays allow
_MAX_FURTHER = 64  # further tags of a release
_OWN = frozenset({"v", "name", "version", "format", "size", "x", "e", "server", "alt", "expiration"})
_DECIMAL = re.compile("[1-9][0-9]{0,15}")


def expiration_tags(expires: int | None) -> Tags:
    """Return the tag that allows relays to delete an event (NIP-40); readers ignore it."""
    return () if expires is None else (("expiration", str(expires)),)


def public_servers(origins: Iterable[str]) -> tuple[str, ...]:
    """Return the servers that a release or head may name: readers follow only public `https` origins, at most 16."""
    return tuple(origin for origin in origins if is_public_origin(origin))[:MAX_SERVERS]


def server_tags(servers: Iterable[str]) -> Tags:
    """Return the tags that name Blossom servers."""
    return tuple(("server", origin) for origin in public_servers(servers))


def find_further_fault(tags: Tags) -> str:
    """Return why these cannot be the further tags of a release (`title`, `t`, ...); empty if they can."""
    if len(tags) > _MAX_FURTHER:
        return f"{len(tags)} tags, the maximum is {_MAX_FURTHER}"
    for tag in tags:
        if not tag or not all(isinstance(value, str) for value in tag):
            return "a tag is a name and values, all text"
        if tag[0] in _OWN:
            return f"the tag {tag[0]} is set by the release itself"
    return ""


def check_time(event: Event, now: int) -> None:
    """Raise InvalidRelease for an event from the future; `now` is in seconds since 1970."""
    if event.created_at > now + MAX_FUTURE_S:
        raise InvalidRelease(f"the event is dated {event.created_at - now} s in the future")


def relay_hints(tags: Tags) -> tuple[str, ...]:
    """Return the relay hints in the `e` tags of an event, each once."""
    return tuple(dict.fromkeys(hint for tag in tags if tag[:1] == ("e",) for hint in tag[2:3] if hint))


def named_servers(event: Event) -> tuple[str, ...]:
    """Return the Blossom servers that an event names, each once; what is no public origin is skipped."""
    return tuple(dict.fromkeys(public_servers(event.tag_values("server")[:MAX_SERVERS])))


def single_value(event: Event, tag: str) -> str:
    """Return the value of a tag that an event must have exactly once."""
    values = event.tag_values(tag)
    if len(values) != 1:
        raise InvalidRelease(f"the event does not have exactly one tag {tag}")
    return values[0]


def decimal_value(event: Event, tag: str, maximum: int) -> int:
    """Return a tag's whole number from 1 to `maximum`."""
    text = single_value(event, tag)
    if not _DECIMAL.fullmatch(text) or int(text) > maximum:
        raise InvalidRelease(f"tag {tag} is not a whole number from 1 to {maximum}")
    return int(text)


def parse_digest(text: str) -> bytes:
    """Return the 32 bytes of an id or hash in lower-case hex."""
    if (value := parse_hex(text, 32)) is None:
        raise InvalidRelease("an id or hash is not 32 bytes in lower-case hex")
    return value
