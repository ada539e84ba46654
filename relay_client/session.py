"""One client's conversation with one relay (NIP-01, NIP-42), without I/O: frames in, meanings out.

Owns what is open: events sent and not yet acknowledged, subscriptions and how much they may still deliver, who the
relay has been told we are. What a relay sends beyond that is dropped and counted; too much of it ends the conversation.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from relay_client.errors import CallerError, InvalidMessage
from relay_client.event import Event, EventDraft, HashedEvent, Signer
from relay_client.filter import Filter
from relay_client.messages import (
    AuthMessage,
    ClosedMessage,
    EoseMessage,
    EventMessage,
    NoticeMessage,
    OkMessage,
    encode_auth,
    encode_close,
    encode_event,
    encode_req,
    parse_relay_message,
    prefix,
)

AUTH_KIND = 22242
MAX_UNACKED_EVENTS = 8
MAX_UNACKED_BYTES = 4 << 20
MAX_UNSOLICITED = 1_000  # frames in one connection that nobody asked for
_CLOSED_REMEMBERED = 64  # subscriptions that we ended lately: answers that cross our CLOSE are normal


class Verdict(Enum):
    """What a relay's answer to an event means for whoever sent it."""

    ACCEPTED = auto()
    DUPLICATE = auto()  # the relay had it before: as good as taken
    RATE_LIMITED = auto()  # too fast; it will be welcome after a wait
    AUTH_REQUIRED = auto()  # not before the relay knows who is there (NIP-42)
    FAILED = auto()  # the relay could not; it may the next time
    REFUSED = auto()  # blocked, restricted, invalid, pow, or no reason at all


_VERDICTS = {
    "duplicate": Verdict.DUPLICATE,
    "rate-limited": Verdict.RATE_LIMITED,
    "auth-required": Verdict.AUTH_REQUIRED,
    "error": Verdict.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """A relay's answer to one event we sent."""

    event_id: bytes
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReceived:
    """An event for a subscription. Its claimed id is one that was asked for; nothing else is checked."""

    subscription: str
    raw_event: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished:
    """A subscription has had what the relay stores, or was closed by it (then with a reason, perhaps empty)."""

    subscription: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeReceived:
    """The relay says something to a person."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthRequested:
    """The relay wants to know who is there; `authenticate` answers it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthAnswered:
    """The relay's answer to `authenticate`: its reason is empty where it knows us now."""

    refusal: str


Outcome = Acknowledged | EventReceived | RequestFinished | NoticeReceived | AuthRequested | AuthAnswered


@dataclass(slots=True)
class _Request:
    ids: frozenset[str]  # in hex; empty: any
    allowance: int  # events it may still deliver
    ended: bool = False  # what is stored has been sent


def auth_event(signer: Signer, *, challenge: str, url: str, now: int) -> Event:
    """What answers a relay's challenge: its own, and no other relay's. `now`: seconds since 1970."""
    tags = (("relay", url), ("challenge", challenge))
    return EventDraft(kind=AUTH_KIND, created_at=now, tags=tags).sign(signer)


class Session:
    """State of one connection. Methods that return bytes return a frame for the caller to send."""

    def __init__(self) -> None:
        self._unacked: dict[bytes, int] = {}  # event id -> frame size in bytes
        self._unacked_bytes = 0
        self._subscriptions: dict[str, _Request] = {}
        self._closed: OrderedDict[str, _Request] = OrderedDict()
        self._opened = 0
        self._unsolicited = 0
        self._challenge = ""
        self._identity: bytes | None = None  # id of the event that says who we are, until it is answered
        self.authenticated = False

    @property
    def unacknowledged(self) -> int:
        """Events sent and not yet answered."""
        return len(self._unacked)

    @property
    def has_room(self) -> bool:
        """Whether one more event may be sent before the next answer."""
        return len(self._unacked) < MAX_UNACKED_EVENTS and self._unacked_bytes < MAX_UNACKED_BYTES

    @property
    def auth_challenge(self) -> str:
        """Whether the relay has asked who is there."""
        return self._challenge

    def publish(self, event: HashedEvent) -> bytes:
        """Frame that offers `event`; raises CallerError if there is no room or it is under way already."""
        if not self.has_room or event.id in self._unacked:
            raise CallerError("too many events are waiting for an answer, or this one is")
        frame = encode_event(event)
        self._unacked[event.id] = len(frame)
        self._unacked_bytes += len(frame)
        return frame

    def authenticate(self, signer: Signer, *, url: str, now: int) -> bytes:
        """Frame that answers the relay's challenge; raises CallerError if there is none. `now`: seconds since 1970."""
        if not self._challenge:
            raise CallerError("the relay has not asked who is there")
        event = auth_event(signer, challenge=self._challenge, url=url, now=now)
        self._identity = event.id
        return encode_auth(event)

    def subscribe(self, wanted: Filter) -> tuple[str, bytes]:
        """A new subscription's id, never used before on this connection, and the frame that opens it."""
        self._opened += 1
        subscription = f"r{self._opened}"
        ids = frozenset(event_id.hex() for event_id in wanted.ids)
        self._subscriptions[subscription] = _Request(ids, wanted.limit)
        return subscription, encode_req(subscription, wanted)

    def unsubscribe(self, subscription: str) -> bytes | None:
        """Frame that closes a subscription; None where the relay has closed it already."""
        closed = self._subscriptions.pop(subscription, None)
        if closed is None:
            return None
        self._closed[subscription] = closed
        if len(self._closed) > _CLOSED_REMEMBERED:
            self._closed.popitem(last=False)
        return encode_close(subscription)

    def receive(self, raw_message: str | bytes) -> Outcome | None:
        """What one frame means, None if nothing; raises InvalidMessage for nonsense, or for a flood of it."""
        outcome: Outcome | None = None
        match parse_relay_message(raw_message):
            case (EventMessage() | EoseMessage() | ClosedMessage()) as message if self._crossed(message):
                return None
            case EventMessage() as message:
                outcome = self._deliver(message)
            case OkMessage() as message:
                outcome = self._acknowledge(message)
            case EoseMessage(subscription=subscription):
                outcome = self._end(subscription)
            case ClosedMessage() as message:
                outcome = self._close(message)
            case NoticeMessage(text=text):
                outcome = NoticeReceived(text=text)
            case AuthMessage(challenge=challenge):
                self._challenge, self.authenticated = challenge, False
                outcome = AuthRequested()
            case None:
                pass
        if outcome is None or isinstance(outcome, NoticeReceived | AuthRequested):
            self._count_unsolicited()
        return outcome

    def _count_unsolicited(self) -> None:
        self._unsolicited += 1
        if self._unsolicited > MAX_UNSOLICITED:
            raise InvalidMessage(f"over {MAX_UNSOLICITED} messages that nobody asked for")

    def _crossed(self, message: EventMessage | EoseMessage | ClosedMessage) -> bool:
        """Whether a message was on its way when we closed its subscription."""
        closed = self._closed.get(message.subscription)
        if closed is None:
            return False
        if isinstance(message, EventMessage) and closed.allowance:
            closed.allowance -= 1
        else:
            del self._closed[message.subscription]
        return True

    def _deliver(self, message: EventMessage) -> EventReceived | None:
        subscription = self._subscriptions.get(message.subscription)
        if subscription is None or subscription.allowance == 0:
            return None
        raw_id = message.raw_event.get("id")
        if subscription.ids and not (isinstance(raw_id, str) and raw_id in subscription.ids):
            return None
        subscription.allowance -= 1
        return EventReceived(subscription=message.subscription, raw_event=message.raw_event)

    def _end(self, name: str) -> RequestFinished | None:
        subscription = self._subscriptions.get(name)
        if subscription is None or subscription.ended:
            return None
        subscription.ended = True
        return RequestFinished(subscription=name, reason="")

    def _close(self, message: ClosedMessage) -> RequestFinished | None:
        if self._subscriptions.pop(message.subscription, None) is None:
            return None
        return RequestFinished(subscription=message.subscription, reason=message.text)

    def _acknowledge(self, message: OkMessage) -> Acknowledged | AuthAnswered | None:
        if message.event_id == self._identity:
            self._identity, self.authenticated = None, message.accepted
            return AuthAnswered(refusal="" if message.accepted else message.text or "no reason given")
        size = self._unacked.pop(message.event_id, None)
        if size is None:
            return None
        self._unacked_bytes -= size
        verdict = _VERDICTS.get(prefix(message.text), Verdict.REFUSED)
        if message.accepted and verdict is not Verdict.DUPLICATE:
            verdict = Verdict.ACCEPTED
        return Acknowledged(event_id=message.event_id, verdict=verdict, reason=message.text)
