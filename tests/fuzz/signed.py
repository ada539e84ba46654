"""Events by a known key, made from the bytes of an input: a mutated event would only ever fail its signature."""

from typing import Any

import orjson
from fuzz.oracle import Target

from relay_client.errors import CallerError, InvalidEvent
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey

KEY = SecretKey(b"\x01" * 32)
NOW = 1_800_000_000  # seconds since 1970


def signed_event(data: bytes, kind: int) -> Event:
    """Return the event whose tags and content the input has as JSON; raises CallerError if it has none."""
    try:
        raw: Any = orjson.loads(data)
        tags = tuple(tuple(tag) for tag in raw["tags"])
        draft = EventDraft(kind=kind, created_at=raw.get("created_at", NOW), tags=tags, content=raw.get("content", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CallerError("no draft") from None
    return draft.sign(KEY)


def on_event(kind: int, read: Any) -> Target:  # noqa: ANN401 (a function of an event)
    """Return the target that signs the draft in an input and reads the event."""

    def target(data: bytes) -> object:
        event = signed_event(data, kind)
        try:
            found = Event.parse(orjson.loads(event.to_json()))
        except InvalidEvent as error:
            raise AssertionError("an event that we signed is refused") from error
        return read(found)

    return target
