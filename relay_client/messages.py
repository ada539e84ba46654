"""NIP-01 messages to and from JSON text. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from relay_client.errors import InvalidEvent, InvalidMessage
from relay_client.event import HashedEvent, decode_hex
from relay_client.filter import Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class EventMessage:
    """A relay delivers an event to a subscription; nothing in it is checked yet."""

    subscription: str
    raw_event: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class OkMessage:
    """A relay took or refused an event."""

    event_id: bytes
    accepted: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EoseMessage:
    """Everything stored has been sent to this subscription."""

    subscription: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedMessage:
    """The relay ended this subscription."""

    subscription: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeMessage:
    """Words for a person."""

    text: str


RelayMessage = EventMessage | OkMessage | EoseMessage | ClosedMessage | NoticeMessage


def encode_event(event: HashedEvent) -> bytes:
    """`["EVENT", …]`: offer an event to a relay."""
    return orjson.dumps(["EVENT", event.to_dict()])


def encode_req(subscription: str, wanted: Filter) -> bytes:
    """`["REQ", …]`: ask for stored events and those to come."""
    return orjson.dumps(["REQ", subscription, wanted.to_dict()])


def encode_close(subscription: str) -> bytes:
    """`["CLOSE", …]`: no more of this subscription."""
    return orjson.dumps(["CLOSE", subscription])


def parse_relay_message(raw_message: str | bytes) -> RelayMessage | None:
    """The message in one websocket frame, None for a type we have no use for; raises InvalidMessage."""
    try:
        parts = orjson.loads(raw_message)
    except orjson.JSONDecodeError as error:
        raise InvalidMessage(f"not JSON: {error}") from None
    match parts:
        case ["EVENT", str(subscription), dict(raw_event)]:
            return EventMessage(subscription=subscription, raw_event=raw_event)
        case ["OK", raw_id, bool(accepted), *rest]:
            try:
                event_id = decode_hex(raw_id, 32)
            except InvalidEvent as error:
                raise InvalidMessage(f"OK without an event id: {error}") from None
            return OkMessage(event_id=event_id, accepted=accepted, text=_text(rest))
        case ["EOSE", str(subscription), *_]:
            return EoseMessage(subscription=subscription)
        case ["CLOSED", str(subscription), *rest]:
            return ClosedMessage(subscription=subscription, text=_text(rest))
        case ["NOTICE", *rest]:
            return NoticeMessage(text=_text(rest))
        case ["EVENT" | "OK" | "EOSE" | "CLOSED", *_]:
            raise InvalidMessage(f"a malformed {parts[0]}")
        case [str(), *_]:
            return None
        case _:
            raise InvalidMessage("not a list that starts with a message type")


def clean(words: str) -> str:
    """Words that somebody else chose, fit for a terminal: shortened, on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in words[:200])


def _text(rest: list[object]) -> str:
    return clean(rest[0]) if rest and isinstance(rest[0], str) else ""
