"""A live subscription at several relays: their stored events, then new ones as they arrive. Does network I/O.

Each relay has its own connection and its own back-off: one that is down, silent or breaks the protocol is reconnected
without affecting the others.
"""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from relay_client.backoff import Backoff
from relay_client.connection import Connection
from relay_client.errors import PeerError, TransportError
from relay_client.event import Signer
from relay_client.filter import Filter
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts
from relay_client.url import normalize_url

# Gets the relay's address and an unverified event; returns False if the event was not wanted.
OnEvent = Callable[[str, Mapping[str, object]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStatus:
    """Status of the subscription at one relay."""

    connected: bool = False  # stored events arrived, new ones follow
    reason: str = ""  # why not


class Subscription:
    """One subscription, kept open at several relays by reconnecting. `statuses` has its status at each relay.

    Args:
        urls: Addresses of the relays.
        wanted: Filter of the subscription.
        on_event: Called with the relay's address and each unverified event; the same event may come from several
            relays, and again after a reconnect. A relay that sends too many events for which it returns False is
            disconnected.
        signer: Authenticates (NIP-42) at relays that require it.
        on_change: Called with each changed status.
        timeouts: How long to wait for relays, and between reconnects.
    """

    def __init__(
        self,
        urls: Sequence[str],
        wanted: Filter,
        on_event: OnEvent,
        *,
        signer: Signer | None = None,
        on_change: Callable[[SubscriptionStatus], None] = lambda _status: None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.statuses = dict.fromkeys(map(normalize_url, urls), SubscriptionStatus())
        self._wanted = wanted
        self._on_event = on_event
        self._signer = signer
        self._on_change = on_change
        self._timeouts = timeouts

    async def run(self) -> None:
        """Keep the subscription open until cancelled."""
        async with asyncio.TaskGroup() as group:
            for url in self.statuses:
                group.create_task(self._keep_open(url), name=f"subscribe at {url}")

    async def _keep_open(self, url: str) -> None:
        backoff, clock = Backoff(self._timeouts), asyncio.get_running_loop().time
        while True:
            started = clock()
            try:
                await self._subscribe(url)
            except (TransportError, PeerError) as error:
                self._set_status(url, SubscriptionStatus(reason=str(error)))
            if clock() - started > self._timeouts.retry_longest_s:  # a relay that closes at once stays backed off
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _subscribe(self, url: str) -> None:
        """Connect and subscribe until the connection fails; always raises TransportError or PeerError."""
        connection = await Connection.open(url, self._signer, timeouts=self._timeouts)
        try:
            await connection.subscribe(
                self._wanted,
                functools.partial(self._on_event, url),
                on_stored=lambda: self._set_status(url, SubscriptionStatus(connected=True)),
            )
        finally:
            await connection.close()

    def _set_status(self, url: str, status: SubscriptionStatus) -> None:
        if status != self.statuses[url]:
            self.statuses[url] = status
            self._on_change(status)
