"""NIP-01 messages to and from JSON text. No I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from relay_client.errors import InvalidEvent, InvalidMessage
from relay_client.event import HashedEvent, decode_hex
from relay_client.filter import Filter

_MAX_CHALLENGE = 1_024  # characters; it goes back in an event of ours
_PREFIX = re.compile("[a-z-]+(?=:|$)")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthMessage:
    """The relay asks who is there (NIP-42)."""

    challenge: str


RelayMessage = EventMessage | OkMessage | EoseMessage | ClosedMessage | NoticeMessage | AuthMessage


def encode_event(event: HashedEvent) -> bytes:
    """`["EVENT", …]`: offer an event to a relay."""
    return orjson.dumps(["EVENT", event.to_dict()])


def encode_auth(event: HashedEvent) -> bytes:
    """`["AUTH", …]`: say who is here."""
    return orjson.dumps(["AUTH", event.to_dict()])


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
    message: RelayMessage | None = None
    match parts:
        case ["EVENT", str(subscription), dict(raw_event)]:
            message = EventMessage(subscription=subscription, raw_event=raw_event)
        case ["OK", raw_id, bool(accepted), *rest]:
            message = OkMessage(event_id=_event_id(raw_id), accepted=accepted, text=_text(rest))
        case ["EOSE", str(subscription), *_]:
            message = EoseMessage(subscription=subscription)
        case ["CLOSED", str(subscription), *rest]:
            message = ClosedMessage(subscription=subscription, text=_text(rest))
        case ["NOTICE", *rest]:
            message = NoticeMessage(text=_text(rest))
        case ["AUTH", str(challenge)] if len(challenge) <= _MAX_CHALLENGE:
            message = AuthMessage(challenge=challenge)
        case ["EVENT" | "OK" | "EOSE" | "CLOSED" | "AUTH", *_]:
            raise InvalidMessage(f"a malformed {parts[0]}")
        case [str(), *_]:
            pass
        case _:
            raise InvalidMessage("not a list that starts with a message type")
    return message


def reason_prefix(reason: str) -> str:
    """The word before the colon by which a relay says what kind of answer this is (NIP-01), empty if there is none."""
    found = _PREFIX.match(reason)
    return found[0] if found else ""


def printable(text: str) -> str:
    """Words that somebody else chose, fit for a terminal: shortened, on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:200])


def _text(rest: list[object]) -> str:
    return printable(rest[0]) if rest and isinstance(rest[0], str) else ""


def _event_id(raw_id: object) -> bytes:
    try:
        return decode_hex(raw_id, 32)
    except InvalidEvent as error:
        raise InvalidMessage(f"OK without an event id: {error}") from None
