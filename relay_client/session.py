"""Sans-I/O state machine of one relay conversation (NIP-01, NIP-42, NIP-45): frames in, outcomes out. No I/O.

Tracks events sent and not yet acknowledged, open requests (queries and live subscriptions) and how many events each
may still receive, and authentication. Frames that answer nothing are dropped and counted; too many of them are an
error.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from relay_client.errors import CallerError, InvalidMessage
from relay_client.event import Event, EventDraft, HashedEvent, Signer
from relay_client.filter import Filter
from relay_client.messages import (
    AuthMessage,
    ClosedMessage,
    CountMessage,
    EoseMessage,
    EventMessage,
    NoticeMessage,
    OkMessage,
    encode_auth,
    encode_close,
    encode_count,
    encode_event,
    encode_req,
    parse_relay_message,
    reason_prefix,
)
from relay_client.outcomes import (
    AuthAnswered,
    AuthRequested,
    CountReceived,
    EventReceived,
    NoticeReceived,
    OkReceived,
    Outcome,
    RequestClosed,
    StoredEventsSent,
    Verdict,
)

AUTH_KIND = 22242
MAX_UNACKED_EVENTS = 8
MAX_UNACKED_BYTES = 4 << 20
MAX_UNSOLICITED = 1_000  # frames per connection that answer nothing
_ID_LENGTH = 64  # hex digits
_CLOSED_REMEMBERED = 64  # requests that we closed lately: answers may cross our CLOSE

_VERDICTS = {
    "duplicate": Verdict.DUPLICATE,
    "rate-limited": Verdict.RATE_LIMITED,
    "auth-required": Verdict.AUTH_REQUIRED,
    "error": Verdict.FAILED,
}


@dataclass(slots=True)
class _Request:
    """An open REQ, which is a query or a live subscription, or an open COUNT."""

    ids: frozenset[str]  # requested ids in hex; empty: any event
    allowance: int  # events it may still receive; not counted if `live`
    live: bool  # stays open after EOSE
    counts: bool = False  # a COUNT
    stored_sent: bool = False  # EOSE arrived
    seen: set[str] = field(default_factory=set)  # ids received, if `live`


def auth_event(signer: Signer, *, challenge: str, url: str, now: int) -> Event:
    """Sign the answer to a relay's challenge (NIP-42), valid for that relay only. `now`: seconds since 1970."""
    tags = (("relay", url), ("challenge", challenge))
    return EventDraft(kind=AUTH_KIND, created_at=now, tags=tags).sign(signer)


class Session:
    """State of one connection. Methods that return bytes return a frame for the caller to send."""

    def __init__(self) -> None:
        self._unacked: dict[bytes, int] = {}  # event id -> frame size in bytes
        self._unacked_bytes = 0
        self._requests: dict[str, _Request] = {}
        self._closed: OrderedDict[str, _Request] = OrderedDict()
        self._opened = 0
        self._unsolicited = 0
        self._challenge = ""
        self._auth_id: bytes | None = None  # id of our AUTH event until the relay answers it
        self.authenticated = False

    @property
    def unacknowledged(self) -> int:
        """Number of events sent and not yet answered."""
        return len(self._unacked)

    @property
    def has_room(self) -> bool:
        """True if one more event may be sent before the next answer."""
        return len(self._unacked) < MAX_UNACKED_EVENTS and self._unacked_bytes < MAX_UNACKED_BYTES

    @property
    def auth_challenge(self) -> str:
        """The relay's last NIP-42 challenge; empty if it sent none."""
        return self._challenge

    def publish(self, event: HashedEvent) -> bytes:
        """Return the frame that sends `event`; raises CallerError without room, or if it is in flight already."""
        if not self.has_room or event.id in self._unacked:
            raise CallerError("too many unacknowledged events, or this one is unacknowledged already")
        frame = encode_event(event)
        self._unacked[event.id] = len(frame)
        self._unacked_bytes += len(frame)
        return frame

    def authenticate(self, signer: Signer, *, url: str, now: int) -> bytes:
        """Return the frame that answers the relay's challenge (NIP-42); raises CallerError if it sent none.

        Args:
            signer: Key to authenticate with.
            url: The relay's address, as it goes into the event.
            now: Seconds since 1970.
        """
        if not self._challenge:
            raise CallerError("the relay has sent no authentication challenge")
        event = auth_event(signer, challenge=self._challenge, url=url, now=now)
        self._auth_id = event.id
        return encode_auth(event)

    def subscribe(self, wanted: Filter, *, live: bool = False) -> tuple[str, bytes]:
        """Open a request.

        Args:
            wanted: Filter of the request.
            live: Keep receiving new events after EOSE, any number of them but each id once.

        Returns:
            A subscription id never used before on this connection, and the frame that opens it.
        """
        self._opened += 1
        subscription_id = f"r{self._opened}"
        ids = frozenset(event_id.hex() for event_id in wanted.ids)
        self._requests[subscription_id] = _Request(ids, wanted.limit, live)
        return subscription_id, encode_req(subscription_id, wanted)

    def count(self, wanted: Filter) -> tuple[str, bytes]:
        """Ask for the number of stored events that match (NIP-45); returns an id and a frame as `subscribe` does."""
        self._opened += 1
        subscription_id = f"r{self._opened}"
        self._requests[subscription_id] = _Request(frozenset(), 0, live=False, counts=True)
        return subscription_id, encode_count(subscription_id, wanted)

    def unsubscribe(self, subscription_id: str) -> bytes | None:
        """Return the frame that closes a request; None if the relay has closed it already."""
        closed = self._requests.pop(subscription_id, None)
        if closed is None:
            return None
        self._closed[subscription_id] = closed
        if len(self._closed) > _CLOSED_REMEMBERED:
            self._closed.popitem(last=False)
        return encode_close(subscription_id)

    def receive(self, raw_message: str | bytes) -> Outcome | None:
        """Interpret one frame; None if it needs no action.

        Raises:
            InvalidMessage: The frame is malformed, or one unsolicited frame too many.
        """
        outcome: Outcome | None = None
        match parse_relay_message(raw_message):
            case (EventMessage() | EoseMessage() | ClosedMessage()) as message if self._crosses_close(message):
                return None
            case EventMessage() as message:
                outcome = self._receive_event(message)
            case OkMessage() as message:
                outcome = self._receive_ok(message)
            case (EoseMessage() | ClosedMessage() | CountMessage()) as message:
                outcome = self._receive_end(message)
            case NoticeMessage(text=text):
                outcome = NoticeReceived(text=text)
            case AuthMessage(challenge=challenge):
                self._challenge, self.authenticated = challenge, False
                outcome = AuthRequested()
            case None:
                pass
        if outcome is None or isinstance(outcome, NoticeReceived | AuthRequested):
            self.count_unsolicited()
        return outcome

    def count_unsolicited(self) -> None:
        """Count a frame that answers nothing, or an unwanted live event; raises InvalidMessage beyond the limit."""
        self._unsolicited += 1
        if self._unsolicited > MAX_UNSOLICITED:
            raise InvalidMessage(f"sent over {MAX_UNSOLICITED:,} unsolicited messages")

    def _crosses_close(self, message: EventMessage | EoseMessage | ClosedMessage) -> bool:
        """Return whether a message was in flight when we closed its request."""
        closed = self._closed.get(message.subscription_id)
        if closed is None:
            return False
        if isinstance(message, EventMessage) and closed.allowance:
            closed.allowance -= 1
        else:
            del self._closed[message.subscription_id]
        return True

    def _receive_event(self, message: EventMessage) -> EventReceived | None:
        request = self._requests.get(message.subscription_id)
        if request is None:
            return None
        raw_id = message.raw_event.get("id")
        if request.ids and not (isinstance(raw_id, str) and raw_id in request.ids):
            return None
        if request.live:
            if not isinstance(raw_id, str) or len(raw_id) != _ID_LENGTH or raw_id in request.seen:
                return None
            request.seen.add(raw_id)
        elif request.allowance == 0:
            return None
        else:
            request.allowance -= 1
        return EventReceived(subscription_id=message.subscription_id, raw_event=message.raw_event)

    def _receive_end(
        self, message: EoseMessage | ClosedMessage | CountMessage
    ) -> StoredEventsSent | RequestClosed | CountReceived | None:
        match message:
            case EoseMessage(subscription_id=subscription_id):
                return self._end_stored(subscription_id)
            case ClosedMessage():
                return self._close(message)
            case CountMessage():
                return self._receive_count(message)

    def _end_stored(self, subscription_id: str) -> StoredEventsSent | None:
        request = self._requests.get(subscription_id)
        if request is None or request.stored_sent:
            return None
        request.stored_sent = True
        return StoredEventsSent(subscription_id=subscription_id)

    def _close(self, message: ClosedMessage) -> RequestClosed | None:
        if self._requests.pop(message.subscription_id, None) is None:
            return None
        return RequestClosed(subscription_id=message.subscription_id, reason=message.text)

    def _receive_count(self, message: CountMessage) -> CountReceived | None:
        request = self._requests.get(message.subscription_id)
        if request is None or not request.counts:
            return None
        del self._requests[message.subscription_id]
        return CountReceived(subscription_id=message.subscription_id, count=message.count)

    def _receive_ok(self, message: OkMessage) -> OkReceived | AuthAnswered | None:
        if message.event_id == self._auth_id:
            self._auth_id, self.authenticated = None, message.accepted
            return AuthAnswered(refusal="" if message.accepted else message.text or "no reason given")
        size = self._unacked.pop(message.event_id, None)
        if size is None:
            return None
        self._unacked_bytes -= size
        verdict = _VERDICTS.get(reason_prefix(message.text), Verdict.REFUSED)
        if message.accepted and verdict is not Verdict.DUPLICATE:
            verdict = Verdict.ACCEPTED
        return OkReceived(event_id=message.event_id, verdict=verdict, reason=message.text)
