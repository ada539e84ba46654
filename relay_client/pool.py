"""Many relays as one: offer events to all of them, gather events from any of them. Does network I/O."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from relay_client import hunt
from relay_client.connection import Connection
from relay_client.errors import InvalidEvent, PeerError, TransportError
from relay_client.event import Event, HashedEvent
from relay_client.filter import Filter
from relay_client.session import Acknowledged
from relay_client.shares import IDS_PER_REQUEST


@dataclass(slots=True)
class RelayReport:
    """What became of one relay. `reason` is empty while it works."""

    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    reason: str = ""


class Pool:
    """Open connections to several relays; an async context manager.

    Raises TransportError on entering if none can be reached. One that fails later is left out from there on, with
    the reason in `reports`.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.reports = {url: RelayReport() for url in urls}
        self.liars: set[str] = set()  # relays that gave a wrong event
        self._connections: dict[str, Connection] = {}

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(self._open(url) for url in self.reports))
        except BaseException:
            await self._close()
            raise
        if not self._connections:
            raise TransportError(f"no relay can be reached: {self.reasons() or 'none is named'}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _open(self, url: str) -> None:
        try:
            self._connections[url] = await Connection.open(url)
        except TransportError as error:
            self.reports[url].reason = str(error)

    async def _close(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))

    @property
    def urls(self) -> list[str]:
        """The relays that work so far."""
        return [connection.url for connection in self._working()]

    def reasons(self) -> str:
        """Why the relays that do not work do not, in one line."""
        return "; ".join(report.reason for report in self.reports.values() if report.reason)

    def _working(self) -> list[Connection]:
        return [self._connections[url] for url, report in self.reports.items() if not report.reason]

    async def publish(self, events: Iterable[tuple[Event, Sequence[str]]]) -> None:
        """Offer each event to the relays named beside it, at the pace of the slowest, and wait for every answer.

        The answers are counted in `reports`. A relay that refuses an event, fails, or is silent gets no more.
        """
        for event, urls in events:
            relays = [connection for connection in self._working() if connection.url in urls]
            await asyncio.gather(*(self._send(connection, event) for connection in relays))
            if not self._working():
                return
        await asyncio.gather(*(self._drain(connection) for connection in self._working()))

    async def _send(self, connection: Connection, event: Event) -> None:
        try:
            answer = await connection.send(event)
        except (TransportError, PeerError) as error:
            self.reports[connection.url].reason = str(error)
        else:
            answer.add_done_callback(lambda future: self._count(connection.url, future))

    async def _drain(self, connection: Connection) -> None:
        try:
            await connection.drain()
        except (TransportError, PeerError) as error:
            self.reports[connection.url].reason = str(error)

    def _count(self, url: str, answer: asyncio.Future[Acknowledged]) -> None:
        report = self.reports[url]
        if answer.cancelled():
            return
        outcome = answer.result()
        if outcome.duplicate:
            report.duplicate += 1
        elif outcome.accepted:
            report.accepted += 1
        else:
            report.refused += 1
            report.reason = report.reason or f"{url}: refused an event: {outcome.reason or 'no reason given'}"

    async def query(self, wanted: Filter) -> list[tuple[str, Mapping[str, object]]]:
        """What all working relays store for a filter: (relay, event as it sent it), unverified and with repeats."""
        answers: list[tuple[str, Mapping[str, object]]] = []

        async def ask(connection: Connection) -> None:
            try:
                await connection.query(wanted, lambda raw_event: answers.append((connection.url, raw_event)))
            except (TransportError, PeerError) as error:
                self.reports[connection.url].reason = str(error)

        await asyncio.gather(*(ask(connection) for connection in self._working()))
        return answers

    async def holdings(self, ids: Sequence[bytes]) -> dict[str, set[bytes]]:
        """Which of these events each working relay gives out, by their recomputed ids."""
        held: dict[str, set[bytes]] = {url: set() for url in self.urls}
        for start in range(0, len(ids), IDS_PER_REQUEST):
            batch = tuple(ids[start : start + IDS_PER_REQUEST])
            for url, raw_event in await self.query(Filter(ids=batch, limit=len(batch))):
                with contextlib.suppress(InvalidEvent):
                    held[url].add(HashedEvent.parse(raw_event).id)
        return held

    async def collect(self, keys: Iterable[bytes], offer: hunt.Offer, search: hunt.Search = hunt.BY_ID) -> list[bytes]:
        """Gather events, by id unless `search` says otherwise; returns the keys (32 bytes each) that did not come.

        `offer` is called as events arrive; what it refuses is asked for elsewhere, and the relay is asked last from
        then on (`liars`). Raises what `offer` raises.
        """

        def fail(url: str, error: Exception) -> None:
            self.reports[url].reason = str(error)

        missing = await hunt.collect(
            self._working(), [key.hex() for key in keys], offer, search=search, liars=self.liars, on_failure=fail
        )
        return [bytes.fromhex(key) for key in missing]
