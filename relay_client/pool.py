"""Many relays as one: offer events to all of them, gather events from any of them. Does network I/O."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from relay_client.allocation import Allocation
from relay_client.backoff import Backoff
from relay_client.connection import Connection, OnEvent
from relay_client.errors import InvalidEvent, PeerError, RelayRefused, RelayTimeout, TransportError
from relay_client.event import Event, HashedEvent, Signer
from relay_client.filter import Filter
from relay_client.gather import BY_ID, Lookup, Offer, gather_events
from relay_client.gather_plan import IDS_PER_REQUEST
from relay_client.hints import MAX_HINTS, usable_hints
from relay_client.rate_control import RateControl
from relay_client.sender import OnAccepted, RelayReport, RelaySender

if TYPE_CHECKING:  # it imports an HTTP client, which a fetch has no use for
    from relay_client.nip11 import RelayInfo

_RETURNS = 3  # tries without any progress to get on with a relay that went away


class Pool:
    """Open connections to several relays; an async context manager.

    Raises TransportError on entering if none can be reached. One that fails later is left out from there on, with
    the reason in `reports`. A relay that insists on knowing who is there is told, if there is a `signer`; one that was
    hinted at is not.
    """

    def __init__(self, urls: Sequence[str], *, signer: Signer | None = None, hints: Sequence[str] = ()) -> None:
        self.reports: dict[str, RelayReport] = {}
        self.misbehaving: set[str] = set()  # relays that gave a wrong event
        self._signer = signer
        self._connections: dict[str, Connection] = {}
        self._lost: set[str] = set()  # relays that went away while they were asked
        self._hints = list(hints)
        self._hinted: set[str] = set()  # relays that were followed there; only ever on the open internet
        self._rate_controls: dict[str, RateControl] = {}
        self._ids_per_request: dict[str, int] = {}
        self._add(urls)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(self._open(url) for url in self.reports))
            if not self._connections:
                await self.connect_hints()
        except BaseException:
            await self._close()
            raise
        if not self._connections:
            raise TransportError(f"no relay can be reached: {self.failures() or 'none is named'}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def _add(self, urls: Iterable[str]) -> None:
        for url in urls:
            self.reports[url] = RelayReport()
            self._rate_controls[url] = RateControl()
            self._ids_per_request[url] = IDS_PER_REQUEST

    async def _dial(self, url: str) -> Connection:
        hinted = url in self._hinted  # whoever hinted at it need not learn who we are
        return await Connection.open(url, None if hinted else self._signer, only_public=hinted)

    async def _connect(self, url: str) -> Connection:
        self._connections[url] = await self._dial(url)
        return self._connections[url]

    async def _open(self, url: str) -> bool:
        try:
            await self._connect(url)
        except TransportError as error:
            self.reports[url].reason = str(error)
            return False
        return True

    async def _close(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))

    @property
    def urls(self) -> list[str]:
        """The relays that work so far."""
        return [connection.url for connection in self._working()]

    def failures(self) -> str:
        """Why the relays that do not work do not, in one line."""
        return "; ".join(report.reason for report in self.reports.values() if report.reason)

    def _working(self) -> list[Connection]:
        return [self._connections[url] for url, report in self.reports.items() if not report.reason]

    def apply_limits(self, infos: "Mapping[str, RelayInfo]", *, frame_size: int) -> None:
        """Believe what relays say about themselves, as far as it lowers what is asked of them.

        One that takes no frame of `frame_size` bytes is left out from here on.
        """
        for url, info in infos.items():
            report = self.reports[url]
            report.requirements = info.requirements
            self._ids_per_request[url] = min(IDS_PER_REQUEST, info.max_limit or IDS_PER_REQUEST)
            limit = info.max_message_length
            if limit is not None and limit < frame_size and not report.reason:
                report.reason = f"{url}: takes messages of up to {limit:,} bytes, and one of these has {frame_size:,}"

    async def publish(self, events: Iterable[tuple[Event, Sequence[str]]]) -> None:
        """Offer each event to the relays named beside it, and wait for every answer; they are counted in `reports`."""
        offered = list(events)
        working = self.urls
        elsewhere = {url: {number for number, (_, urls) in enumerate(offered) if url not in urls} for url in working}
        allocation = Allocation(working, [len(working)] * len(offered), held=elsewhere)
        await self.send(allocation, lambda number: offered[number][0])

    async def send(
        self,
        allocation: Allocation,
        make_event: Callable[[int], Event],
        on_accepted: OnAccepted = lambda _url, _number: None,
    ) -> None:
        """Bring each relay its share, each at its own pace; answers are counted in `reports`.

        `make_event` makes the event of a number; it is called once for each relay, and again for what is sent again. A
        relay that refuses an event, or keeps failing, gets no more, and its share moves to the others. Raises what
        `make_event` and `on_accepted` raise, and nothing else.
        """
        for url in set(allocation.relays).difference(self.urls):
            allocation.drop(url, keeps=False)
        senders = {
            url: RelaySender(
                url=url,
                connection=self._connections[url],
                reopen=self._reopen,
                open_second=self._dial,
                rate_control=self._rate_controls[url],
                allocation=allocation,
                make_event=make_event,
                report=self.reports[url],
                on_accepted=on_accepted,
            )
            for url in allocation.relays
        }
        running: dict[asyncio.Task[None], str] = {}
        try:
            while True:
                for url in set(allocation.relays).difference(running.values()):
                    if allocation.has_work(url):
                        running[asyncio.create_task(senders[url].run(), name=f"send to {url}")] = url
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    url = running.pop(task)
                    try:
                        task.result()
                    except (TransportError, PeerError) as error:
                        self.reports[url].reason = str(error)
                        allocation.drop(url, keeps=isinstance(error, RelayRefused))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _reopen(self, url: str) -> Connection:
        await self._connections[url].close()
        return await self._connect(url)

    async def query(self, wanted: Filter) -> list[tuple[str, Mapping[str, object]]]:
        """What all working relays store for a filter: (relay, event as it sent it), unverified and with repeats."""
        answers: list[tuple[str, Mapping[str, object]]] = []

        async def ask(url: str) -> None:
            await self._ask(url, wanted, lambda raw_event: answers.append((url, raw_event)))

        await asyncio.gather(*(ask(url) for url in self.urls))
        return answers

    async def stored_ids(self, ids: Sequence[bytes] | Mapping[str, Sequence[bytes]]) -> dict[str, set[bytes]]:
        """Which of these events each working relay gives out, by their recomputed ids; `ids` may differ by relay."""
        held: dict[str, set[bytes]] = {url: set() for url in self.urls}

        async def ask(url: str) -> None:
            def take(raw_event: Mapping[str, object]) -> None:
                with contextlib.suppress(InvalidEvent):
                    held[url].add(HashedEvent.parse(raw_event).id)

            wanted = ids.get(url, ()) if isinstance(ids, Mapping) else ids
            size = self._ids_per_request[url]
            for start in range(0, len(wanted), size):
                batch = tuple(wanted[start : start + size])
                await self._ask(url, Filter(ids=batch, limit=len(batch)), take)

        await asyncio.gather(*(ask(url) for url in held))
        return held

    async def _ask(self, url: str, wanted: Filter, on_event: OnEvent) -> None:
        """Ask one relay, a second time if its connection broke; one that fails is left out from here on."""
        if self.reports[url].reason:
            return
        try:
            try:
                await self._connections[url].query(wanted, on_event)
            except RelayRefused:
                raise
            except TransportError:
                await (await self._reopen(url)).query(wanted, on_event)
        except (TransportError, PeerError) as error:
            self.reports[url].reason = str(error)

    async def gather(self, keys: Iterable[bytes], offer: Offer, lookup: Lookup = BY_ID) -> list[bytes]:
        """Gather events, by id unless `lookup` says otherwise; returns the keys (32 bytes each) that did not come.

        `offer` is called as events arrive; what it refuses is asked for elsewhere, and the relay is asked last from
        then on (`misbehaving`). Relays that went away are connected to again, and hints followed, only if the others
        lack something. Raises what `offer` raises.
        """
        missing = await self._gather(self.urls, [key.hex() for key in keys], offer, lookup)
        tries, backoff = _RETURNS, Backoff()
        while missing and self._lost and tries:
            await asyncio.sleep(backoff.next())
            before, tries = len(missing), tries - 1
            missing = await self._gather(await self._reconnect_lost(), missing, offer, lookup)
            if len(missing) < before:
                tries, backoff = _RETURNS, Backoff()
        self._lost.clear()
        if missing and (joined := await self.connect_hints()):
            missing = await self._gather(joined, missing, offer, lookup)
        return [bytes.fromhex(key) for key in missing]

    def add_hints(self, raw_urls: Iterable[str]) -> None:
        """Relays that an event or a name mentions, for when the others lack something; whoever wrote it chose them."""
        self._hints += raw_urls

    async def connect_hints(self) -> list[str]:
        """Connect to the first few relays that were hinted at and may be followed; returns those that it reached."""
        urls = usable_hints(self._hints, known=self.reports)[: MAX_HINTS - len(self._hinted)]
        self._hints.clear()
        self._hinted.update(urls)
        self._add(urls)
        reached = await asyncio.gather(*(self._open(url) for url in urls))
        return [url for url, is_open in zip(urls, reached, strict=True) if is_open]

    async def _gather(self, urls: Sequence[str], keys: Sequence[str], offer: Offer, lookup: Lookup) -> list[str]:
        def fail(url: str, error: TransportError | PeerError) -> None:
            self.reports[url].reason = str(error)
            if isinstance(error, TransportError) and not isinstance(error, RelayRefused | RelayTimeout):
                self._lost.add(url)

        connections = [self._connections[url] for url in urls]
        return await gather_events(
            connections, keys, offer, lookup=lookup, misbehaving=self.misbehaving, on_failure=fail
        )

    async def _reconnect_lost(self) -> list[str]:
        """Connect again to the relays that went away; returns those that are back."""

        async def reconnect(url: str) -> bool:
            try:
                await self._reopen(url)
            except TransportError as error:
                self.reports[url].reason = str(error)
                return False
            self._lost.discard(url)
            self.reports[url].reason = ""
            return True

        lost = sorted(self._lost)
        back = await asyncio.gather(*map(reconnect, lost))
        return [url for url, is_back in zip(lost, back, strict=True) if is_back]
