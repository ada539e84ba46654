"""Messages between client and relay (NIP-01, NIP-42, NIP-45), to and from JSON. No I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from relay_client.errors import InvalidEvent, InvalidMessage
from relay_client.event import HashedEvent, decode_hex
from relay_client.filter import Filter

_MAX_CHALLENGE = 1_024  # characters; the answer repeats it
_PREFIX = re.compile("[a-z-]+(?=:|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventMessage:
    """An event for a subscription; nothing in it is checked yet."""

    subscription_id: str
    raw_event: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class OkMessage:
    """The relay accepted or refused an event."""

    event_id: bytes
    accepted: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EoseMessage:
    """All stored events of a subscription have been sent."""

    subscription_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedMessage:
    """The relay closed a subscription."""

    subscription_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeMessage:
    """Human-readable NOTICE from the relay."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthMessage:
    """The relay's authentication challenge (NIP-42)."""

    challenge: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CountMessage:
    """The relay's count of the events that match a filter (NIP-45)."""

    subscription_id: str
    count: int | None  # None: an estimate, or no number


RelayMessage = EventMessage | OkMessage | EoseMessage | ClosedMessage | NoticeMessage | AuthMessage | CountMessage


def encode_event(event: HashedEvent) -> bytes:
    """Encode `["EVENT", …]`, which sends an event."""
    return orjson.dumps(["EVENT", event.to_dict()])


def encode_auth(event: HashedEvent) -> bytes:
    """Encode `["AUTH", …]`, which authenticates (NIP-42)."""
    return orjson.dumps(["AUTH", event.to_dict()])


def encode_req(subscription_id: str, wanted: Filter) -> bytes:
    """Encode `["REQ", …]`, which requests stored events and subscribes to new ones."""
    return orjson.dumps(["REQ", subscription_id, wanted.to_dict()])


def encode_count(subscription_id: str, wanted: Filter) -> bytes:
    """Encode `["COUNT", …]`, which asks how many stored events match (NIP-45)."""
    return orjson.dumps(["COUNT", subscription_id, wanted.to_dict()])


def encode_close(subscription_id: str) -> bytes:
    """Encode `["CLOSE", …]`, which ends a subscription."""
    return orjson.dumps(["CLOSE", subscription_id])


def parse_relay_message(raw_message: str | bytes) -> RelayMessage | None:
    """Parse one websocket frame; None for a message type we do not use. Raises InvalidMessage."""
    try:
        parts = orjson.loads(raw_message)
    except orjson.JSONDecodeError as error:
        raise InvalidMessage(f"not JSON: {error}") from None
    message: RelayMessage | None = None
    match parts:
        case ["EVENT" | "EOSE" | "CLOSED" | "COUNT" as kind, str(subscription_id), *rest]:
            message = _request_message(kind, subscription_id, rest)
        case ["OK", raw_id, bool(accepted), *rest]:
            message = OkMessage(event_id=_event_id(raw_id, _text(rest)), accepted=accepted, text=_text(rest))
        case ["NOTICE", *rest]:
            message = NoticeMessage(text=_text(rest))
        case ["AUTH", str(challenge)] if len(challenge) <= _MAX_CHALLENGE:
            message = AuthMessage(challenge=challenge)
        case ["EVENT" | "OK" | "EOSE" | "CLOSED" | "AUTH" | "COUNT", *_]:
            raise InvalidMessage(f"malformed {parts[0]} message")
        case [str(), *_]:
            pass
        case _:
            raise InvalidMessage("not an array that starts with a message type")
    return message


def _request_message(kind: str, subscription_id: str, rest: list[object]) -> RelayMessage:
    match kind, rest:
        case "EVENT", [dict(raw_event)]:
            return EventMessage(subscription_id=subscription_id, raw_event=raw_event)
        case "EOSE", _:
            return EoseMessage(subscription_id=subscription_id)
        case "CLOSED", _:
            return ClosedMessage(subscription_id=subscription_id, text=_text(rest))
        case "COUNT", _:
            return CountMessage(subscription_id=subscription_id, count=_count(rest))
    raise InvalidMessage(f"malformed {kind} message")


def reason_prefix(reason: str) -> str:
    """Return the machine-readable prefix of a relay's reason (NIP-01); empty if it has none."""
    found = _PREFIX.match(reason)
    return found[0] if found else ""


def sanitize(text: str) -> str:
    """Return untrusted text safe for a terminal: at most 200 characters, with spaces for control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:200])


def _text(rest: list[object]) -> str:
    return sanitize(rest[0]) if rest and isinstance(rest[0], str) else ""


def _count(rest: list[object]) -> int | None:
    match rest:
        case [{"count": int(number), **others}, *_] if type(number) is int and number >= 0:
            return None if others.get("approximate") else number
    return None


def _event_id(raw_id: object, text: str) -> bytes:
    try:
        return decode_hex(raw_id, 32)
    except InvalidEvent as error:  # nostr-relay refuses some events like this
        raise InvalidMessage(f"OK without an event id: {text or error}") from None
