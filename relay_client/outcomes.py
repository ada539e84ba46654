"""Outcomes of a relay's frames, as `session` reports them to the connection (NIP-01, NIP-42, NIP-45). No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto


class Verdict(Enum):
    """Meaning of a relay's OK message for the sender of the event (NIP-01 reason prefixes)."""

    ACCEPTED = auto()
    DUPLICATE = auto()  # the relay had it before: as good as accepted
    RATE_LIMITED = auto()  # send it again after a wait
    AUTH_REQUIRED = auto()  # send it again after authenticating (NIP-42)
    FAILED = auto()  # an error of the relay's own; it may succeed later
    REFUSED = auto()  # blocked, restricted, invalid, pow, or no reason at all


@dataclass(frozen=True, slots=True, kw_only=True)
class OkReceived:
    """The relay accepted or refused an event that we sent (OK)."""

    event_id: bytes
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReceived:
    """An event arrived for a request. If the filter has ids, the claimed id is one of them; nothing else is checked."""

    subscription_id: str
    raw_event: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEventsSent:
    """The relay sent everything it stores for a request (EOSE)."""

    subscription_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestClosed:
    """The relay closed a request, for a reason that may be empty."""

    subscription_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CountReceived:
    """The relay counted the events of a request, which ends it; None if it gave an estimate only (NIP-45)."""

    subscription_id: str
    count: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeReceived:
    """Human-readable NOTICE from the relay."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthRequested:
    """The relay sent a NIP-42 challenge; `Session.authenticate` answers it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthAnswered:
    """The relay answered our authentication; `refusal` is empty if it succeeded."""

    refusal: str


Outcome = (
    OkReceived
    | EventReceived
    | StoredEventsSent
    | RequestClosed
    | CountReceived
    | NoticeReceived
    | AuthRequested
    | AuthAnswered
)
