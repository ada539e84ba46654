"""Limits of the built-in relay: who may write, how much and how fast. No I/O; the clock is an argument."""

import ipaddress
from dataclasses import dataclass, field

from relay_client.errors import CallerError

MAX_EVENT_SIZE = 65_536  # bytes of JSON; nostr-sdk accepts no larger event
_BURST_S = 10.0  # an address may send at once what the rate allows in this time
_MAX_ADDRESSES = 4096  # remembered before idle ones are forgotten
_IPV6_PREFIX = 64  # one customer


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """Limits on what a relay accepts; the defaults are for one that other machines can reach."""

    authors: frozenset[bytes] | None = None  # x-only public keys; None: anyone may write
    max_event_size: int = MAX_EVENT_SIZE  # bytes of JSON
    max_total_size: int = 2 << 30  # bytes
    events_per_minute: int = 6_000  # of one address; what exceeds it is delayed, not refused
    max_connections: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.max_event_size <= MAX_EVENT_SIZE:
            raise CallerError(f"the largest event must have 1 to {MAX_EVENT_SIZE:,} bytes, not {self.max_event_size:,}")
        if min(self.max_total_size, self.events_per_minute, self.max_connections) < 1:
            raise CallerError("limits of a relay must be at least 1")

    def refusal(self, author: bytes, size: int, stored: int) -> str:
        """Return why an event is refused, empty if it is accepted.

        Args:
            author: The event's author.
            size: Bytes of the event as JSON.
            stored: Bytes that the relay has stored.
        """
        if self.authors is not None and author not in self.authors:
            return "this author is not on the relay's list"
        if size > self.max_event_size:
            return f"the event has {size:,} bytes; the limit is {self.max_event_size:,}"
        if stored + size > self.max_total_size:
            return "the relay is full"
        return ""


@dataclass(slots=True)
class AddressRates:
    """Rate limit for each client address. IPv6 addresses of one /64 network count as one."""

    events_per_minute: int
    _due: dict[str, float] = field(default_factory=dict)  # when the next event of an address is due

    def delay_s(self, address: str, now: float) -> float:
        """Count an event, and return how many seconds to delay it.

        Args:
            address: IP address of the client.
            now: A monotonic clock, in seconds.
        """
        client = _network(address)
        due = max(self._due.get(client, 0.0), now - _BURST_S)
        self._due[client] = due + 60 / self.events_per_minute
        if len(self._due) > _MAX_ADDRESSES:
            self._due = {each: at for each, at in self._due.items() if at > now - _BURST_S}
        return max(0.0, due - now)


def _network(address: str) -> str:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, _IPV6_PREFIX), strict=False))
