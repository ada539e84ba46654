"""One client's conversation with one relay (NIP-01), without I/O: frames in, meanings out.

Owns what is open: events sent and not yet acknowledged, subscriptions and how much they may still deliver. What a
relay sends beyond that is dropped and counted; too much of it ends the conversation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from relay_client.errors import CallerError, InvalidMessage
from relay_client.event import HashedEvent
from relay_client.filter import Filter
from relay_client.messages import (
    ClosedMessage,
    EoseMessage,
    EventMessage,
    NoticeMessage,
    OkMessage,
    encode_close,
    encode_event,
    encode_req,
    parse_relay_message,
)

MAX_UNACKED_EVENTS = 8
MAX_UNACKED_BYTES = 4 << 20
MAX_UNSOLICITED = 1_000  # frames in one connection that nobody asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """A relay's answer to one event we sent."""

    event_id: bytes
    accepted: bool  # the relay has it now
    duplicate: bool  # ... and had it before
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """An event for a subscription. Its claimed id is one that was asked for; nothing else is checked."""

    subscription: str
    raw_event: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A subscription has had what the relay stores, or was closed by it (then with a reason, perhaps empty)."""

    subscription: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    """The relay says something to a person."""

    text: str


Outcome = Acknowledged | Delivered | Finished | Noticed


@dataclass(slots=True)
class _Subscription:
    ids: frozenset[str]  # in hex; empty: any
    allowance: int  # events it may still deliver


class Session:
    """State of one connection. Methods that return bytes return a frame for the caller to send."""

    def __init__(self) -> None:
        self._unacked: dict[bytes, int] = {}  # event id -> frame size in bytes
        self._unacked_bytes = 0
        self._subscriptions: dict[str, _Subscription] = {}
        self._opened = 0
        self._unsolicited = 0

    @property
    def unacknowledged(self) -> int:
        """Events sent and not yet answered."""
        return len(self._unacked)

    @property
    def has_room(self) -> bool:
        """Whether one more event may be sent before the next answer."""
        return len(self._unacked) < MAX_UNACKED_EVENTS and self._unacked_bytes < MAX_UNACKED_BYTES

    def publish(self, event: HashedEvent) -> bytes:
        """Frame that offers `event`; raises CallerError if there is no room or it is under way already."""
        if not self.has_room or event.id in self._unacked:
            raise CallerError("too many events are waiting for an answer, or this one is")
        frame = encode_event(event)
        self._unacked[event.id] = len(frame)
        self._unacked_bytes += len(frame)
        return frame

    def subscribe(self, wanted: Filter) -> tuple[str, bytes]:
        """A new subscription's id, never used before on this connection, and the frame that opens it."""
        self._opened += 1
        subscription = f"r{self._opened}"
        ids = frozenset(event_id.hex() for event_id in wanted.ids)
        self._subscriptions[subscription] = _Subscription(ids, wanted.limit)
        return subscription, encode_req(subscription, wanted)

    def unsubscribe(self, subscription: str) -> bytes | None:
        """Frame that closes a subscription; None where the relay has closed it already."""
        return encode_close(subscription) if self._subscriptions.pop(subscription, None) else None

    def receive(self, raw_message: str | bytes) -> Outcome | None:
        """What one frame means, None if nothing; raises InvalidMessage for nonsense, or for a flood of it."""
        message = parse_relay_message(raw_message)
        outcome: Outcome | None = None
        match message:
            case EventMessage():
                outcome = self._deliver(message)
            case OkMessage():
                outcome = self._acknowledge(message)
            case EoseMessage() if message.subscription in self._subscriptions:
                return Finished(subscription=message.subscription, reason="")
            case ClosedMessage() if self._subscriptions.pop(message.subscription, None):
                return Finished(subscription=message.subscription, reason=message.text)
            case NoticeMessage():
                return Noticed(text=message.text)
            case EoseMessage() | ClosedMessage():  # answers that cross our CLOSE are normal
                return None
        if outcome is None:
            self._unsolicited += 1
            if self._unsolicited > MAX_UNSOLICITED:
                raise InvalidMessage(f"over {MAX_UNSOLICITED} messages that nobody asked for")
        return outcome

    def _deliver(self, message: EventMessage) -> Delivered | None:
        subscription = self._subscriptions.get(message.subscription)
        if subscription is None or subscription.allowance == 0:
            return None
        raw_id = message.raw_event.get("id")
        if subscription.ids and not (isinstance(raw_id, str) and raw_id in subscription.ids):
            return None
        subscription.allowance -= 1
        return Delivered(subscription=message.subscription, raw_event=message.raw_event)

    def _acknowledge(self, message: OkMessage) -> Acknowledged | None:
        size = self._unacked.pop(message.event_id, None)
        if size is None:
            return None
        self._unacked_bytes -= size
        duplicate = message.text.startswith("duplicate")
        return Acknowledged(
            event_id=message.event_id,
            accepted=message.accepted or duplicate,
            duplicate=duplicate,
            reason=message.text,
        )
