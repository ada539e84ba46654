"""Status of a relay in a pool, and what it answered so far. No I/O."""

from dataclasses import dataclass
from enum import Enum, auto


class RelayStatus(Enum):
    """State of a relay in a pool."""

    CONNECTING = auto()  # no connection yet
    CONNECTED = auto()  # in use
    DISCONNECTED = auto()  # the connection broke; it may be opened again
    DROPPED = auto()  # refused, failed or left out by the caller: not used again by this pool


@dataclass(slots=True)
class SendCounts:
    """Answers of one relay to the events sent to it."""

    accepted: int = 0
    duplicate: int = 0  # the relay had them before
    refused: int = 0
    seconds: float = 0.0  # spent sending


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayReport:
    """Result of a pool's operations at one relay so far."""

    status: RelayStatus
    reason: str = ""  # why the relay is not in use; empty while it is
    requirements: tuple[str, ...] = ()  # what the relay says it demands (NIP-11), in words
    accepted: int = 0
    duplicate: int = 0  # events the relay had before
    refused: int = 0
    seconds: float = 0.0  # spent sending

    @property
    def in_use(self) -> bool:
        """True if the pool uses the relay."""
        return self.status is RelayStatus.CONNECTED
