"""Connections to the relays of a pool: opened, lost and reopened, and the status of each relay. Does network I/O."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from relay_client.connection import Connection
from relay_client.errors import TransportError
from relay_client.event import Signer
from relay_client.gather import Reputation
from relay_client.gather_plan import IDS_PER_REQUEST
from relay_client.hints import MAX_HINTS, usable_hints
from relay_client.rate_control import RateControl
from relay_client.relay_status import RelayReport, RelayStatus, SendCounts
from relay_client.settle import settle
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts
from relay_client.url import normalize_url

if TYPE_CHECKING:  # it imports an HTTP client, which fetching does not need
    from relay_client.nip11 import RelayInfo


@dataclass(slots=True, kw_only=True)
class _Relay:
    url: str
    rate_control: RateControl
    is_hint: bool  # named by an event, not by the user: used only if publicly routable, and without authentication
    status: RelayStatus = RelayStatus.CONNECTING
    reason: str = ""
    connection: Connection | None = None
    requirements: tuple[str, ...] = ()
    ids_per_request: int = IDS_PER_REQUEST
    offers_count: bool = False  # NIP-45
    counts: SendCounts = field(default_factory=SendCounts)

    def fail(self, status: RelayStatus, reason: object) -> None:
        self.status, self.reason = status, str(reason)

    def report(self) -> RelayReport:
        return RelayReport(
            status=self.status,
            reason=self.reason,
            requirements=self.requirements,
            accepted=self.counts.accepted,
            duplicate=self.counts.duplicate,
            refused=self.counts.refused,
            seconds=self.counts.seconds,
        )


class PoolConnections:
    """Open connections to several relays: the base of `Pool`, which documents the arguments."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        signer: Signer | None = None,
        hints: Sequence[str] = (),
        wait_for_all: bool = True,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.timeouts = timeouts
        reputation = Reputation()
        self.misbehaving = reputation.misbehaving  # addresses of relays that sent an invalid event
        self._late = reputation.late
        self._reputation = reputation
        self._signer = signer
        self._relays: dict[str, _Relay] = {}
        self._hints = list(hints)
        self._wait_for_all = wait_for_all
        self._settle_s = timeouts.straggler_s if wait_for_all else timeouts.settle_s
        self._tasks: set[asyncio.Task[None]] = set()  # questions, and attempts to connect, that may outlive a call
        self._add(map(normalize_url, urls), are_hints=False)

    async def __aenter__(self) -> Self:
        try:
            await self._open_all(list(self._relays))
            if not self.urls:
                await self.connect_hints()
        except BaseException:
            await self._close()
            raise
        if not self.urls:
            raise TransportError(f"no relay can be reached: {self.failure_summary() or 'none is named'}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    @property
    def urls(self) -> list[str]:
        """Addresses of the relays in use."""
        return [relay.url for relay in self._relays.values() if relay.status is RelayStatus.CONNECTED]

    @property
    def reports(self) -> Mapping[str, RelayReport]:
        """Result at each relay so far, by address."""
        return {url: relay.report() for url, relay in self._relays.items()}

    @property
    def has_hints(self) -> bool:
        """True if hints are left that were not followed yet."""
        return bool(self._hints)

    def failure_summary(self) -> str:
        """Return in one line why relays are not in use; empty if all are."""
        return "; ".join(relay.reason for relay in self._relays.values() if relay.reason)

    def drop(self, url: str, reason: str) -> None:
        """Stop using a relay, for a reason that the user will read."""
        self._relays[url].fail(RelayStatus.DROPPED, f"{url}: {reason}")

    def note_duplicates(self, url: str, count: int) -> None:
        """Count events that a relay was found to have, so that they need not be sent."""
        self._relays[url].counts.duplicate += count

    def apply_limits(self, infos: "Mapping[str, RelayInfo]", *, frame_size: int) -> None:
        """Apply the limits that relays publish (NIP-11), where they are lower than ours.

        Drops a relay that does not take frames of `frame_size` bytes.
        """
        for url, info in infos.items():
            relay = self._relays[url]
            relay.requirements, relay.offers_count = info.requirements, info.counts
            relay.ids_per_request = min(IDS_PER_REQUEST, info.max_limit or IDS_PER_REQUEST)
            limit = info.max_message_length
            if limit is not None and limit < frame_size and relay.status is RelayStatus.CONNECTED:
                self.drop(url, f"takes messages of up to {limit:,} bytes, and one of these has {frame_size:,}")

    def add_hints(self, raw_urls: Iterable[str]) -> None:
        """Remember untrusted addresses from an event or a reference, for when the other relays lack something."""
        self._hints += raw_urls

    async def connect_hints(self) -> list[str]:
        """Connect to the first few hints that are safe to follow; returns the addresses that could be reached.

        Waits only a short time if the pool has other relays and does not wait for all.
        """
        room = MAX_HINTS - sum(relay.is_hint for relay in self._relays.values())
        urls = usable_hints(self._hints, known=self._relays)[:room]
        self._hints.clear()
        self._add(urls, are_hints=True)
        await self._open_all(urls)
        return [url for url in urls if self._relays[url].status is RelayStatus.CONNECTED]

    def _add(self, urls: Iterable[str], *, are_hints: bool) -> None:
        for url in urls:
            self._relays[url] = _Relay(url=url, rate_control=RateControl(self.timeouts), is_hint=are_hints)

    async def _connect(self, url: str) -> Connection:
        """Open a connection to a relay, which is not yet the relay's main one."""
        is_hint = self._relays[url].is_hint
        return await Connection.open(
            url, None if is_hint else self._signer, only_public=is_hint, timeouts=self.timeouts
        )

    def _start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run something that may outlive the call that started it, but not the pool."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open_all(self, urls: Iterable[str]) -> None:
        """Connect to relays, all at once."""
        opening = {url: self._start(self._open(url), f"connect to {url}") for url in urls}
        if opening and self.urls and not self._wait_for_all:
            await asyncio.wait(opening.values(), timeout=self.timeouts.settle_s)
        else:
            await settle(
                opening.values(),
                enough=lambda: not self._wait_for_all and bool(self.urls),
                settle_s=self.timeouts.settle_s,
            )
        for url, task in opening.items():
            if not task.done():
                self._late.add(url)
                self._relays[url].reason = f"{url}: not connected yet"

    async def _open(self, url: str) -> None:
        """Connect to a relay for use by the pool, unless it cannot be reached."""
        relay = self._relays[url]
        try:
            relay.connection = await self._connect(url)
        except TransportError as error:
            relay.fail(RelayStatus.DROPPED, error)
        else:
            relay.status, relay.reason = RelayStatus.CONNECTED, ""

    async def _reopen(self, url: str) -> Connection:
        relay = self._relays[url]
        await self._connection(url).close()
        relay.connection = await self._connect(url)
        return relay.connection

    def _connection(self, url: str) -> Connection:
        connection = self._relays[url].connection
        assert connection is not None, url  # noqa: S101 (a relay in use has been connected)
        return connection

    def _disconnected(self) -> list[_Relay]:
        return [relay for relay in self._relays.values() if relay.status is RelayStatus.DISCONNECTED]

    async def _reconnect_lost(self) -> list[str]:
        """Connect again to relays whose connection broke; returns the addresses that could be reached."""

        async def reconnect(relay: _Relay) -> bool:
            try:
                await self._reopen(relay.url)
            except TransportError as error:
                relay.reason = str(error)
                return False
            relay.status, relay.reason = RelayStatus.CONNECTED, ""
            return True

        lost = self._disconnected()
        reached = await asyncio.gather(*map(reconnect, lost))
        return [relay.url for relay, is_open in zip(lost, reached, strict=True) if is_open]

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        connections = [relay.connection for relay in self._relays.values() if relay.connection]
        await asyncio.gather(*(connection.close() for connection in connections))
