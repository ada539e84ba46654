"""Queries to several relays at once: what they store, without waiting for the slowest. Does network I/O."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import MappingProxyType

from relay_client.batches import batched
from relay_client.connection import OnEvent
from relay_client.errors import InvalidEvent, PeerError, RelayRefused, RelayTimeout, TransportError
from relay_client.event import HashedEvent
from relay_client.event_source import Answer
from relay_client.filter import Filter
from relay_client.pool_connections import PoolConnections
from relay_client.relay_status import RelayStatus
from relay_client.settle import TOO_SLOW, settle

OnRelayEvent = Callable[[str, Mapping[str, object]], bool | None]


class PoolQueries(PoolConnections):
    """What relays of a pool are asked: the part of `Pool` that reads. `Pool` documents the arguments."""

    async def query(self, wanted: Filter | Mapping[str, Filter]) -> list[Answer]:
        """Query all relays, or some with a filter each; return (relay, unverified event) pairs, duplicates included.

        Relays that are much slower than the first are left out, and dropped if the pool waits for all.
        """
        answers: list[Answer] = []
        filters = wanted if isinstance(wanted, Mapping) else dict.fromkeys(self.urls, wanted)
        await self.stream(filters, lambda url, raw_event: answers.append((url, raw_event)))
        return answers

    async def stream(self, wanted: Mapping[str, Filter], on_event: OnRelayEvent, *, may_fail: bool = False) -> set[str]:
        """Query relays as `query` does, and keep no event.

        Args:
            wanted: Filter for each relay.
            on_event: Called with (relay, unverified event); returns True to end the query of that relay.
            may_fail: Keep using a relay that refuses this query.

        Returns:
            The relays that were not waited for.
        """
        slow = set(self.urls).intersection(wanted)

        async def ask(url: str) -> None:
            await self._query(url, wanted[url], lambda raw_event: on_event(url, raw_event), is_late=lambda: may_fail)
            slow.remove(url)

        await self._ask_each({url: ask(url) for url in list(slow)})
        return slow

    async def query_soon(
        self,
        wanted: Filter,
        *,
        enough: Callable[[Sequence[Answer]], bool],
        late: list[Answer],
        may_fail: bool = False,
    ) -> list[Answer]:
        """Return what relays store for a filter, without waiting for the slowest; `query` if the pool waits for all.

        Args:
            wanted: Filter of the request.
            enough: Called when a relay has answered, with all events so far; returns whether the caller could do
                without the other relays. They get a short time more then, or none if they were late before.
            late: Gets the events that arrive after that, while the pool is open.
            may_fail: Keep using a relay that refuses this query. Has no effect if the pool waits for all.
        """
        if self._wait_for_all:
            return await self.query(wanted)
        answers: list[Answer] = []
        current, sufficient = answers, False

        async def ask(url: str) -> None:
            await self._query(
                url,
                wanted,
                lambda raw_event: current.append((url, raw_event)),
                is_late=lambda: may_fail or current is late,
            )

        def is_enough() -> bool:
            nonlocal sufficient
            sufficient = sufficient or enough(answers)
            return sufficient

        asked = {url: self._start(ask(url), f"ask {url}") for url in self.urls}
        prompt = [task for url, task in asked.items() if url not in self._late]
        await settle(prompt, enough=is_enough, settle_s=self.timeouts.settle_s)
        if not is_enough():
            await settle(asked.values(), enough=is_enough, settle_s=self.timeouts.settle_s)
        self._late.difference_update(asked)
        self._late.update(url for url, task in asked.items() if not task.done())
        current = late
        return answers

    async def stored_ids(self, ids: Sequence[bytes] | Mapping[str, Sequence[bytes]]) -> dict[str, set[bytes]]:
        """Return the ids, recomputed, of the events each relay serves. `ids` may differ per relay.

        Relays that are much slower than the first are left out as in `query`, unless events keep arriving.
        """
        stored: dict[str, set[bytes]] = {url: set() for url in self.urls}
        arrived_at = dict.fromkeys(stored, -math.inf)

        async def ask(url: str) -> None:
            def add(raw_event: Mapping[str, object]) -> None:
                with contextlib.suppress(InvalidEvent):
                    event_id = HashedEvent.parse(raw_event).id
                    if event_id not in stored[url]:
                        stored[url].add(event_id)
                        arrived_at[url] = asyncio.get_running_loop().time()

            wanted = ids.get(url, ()) if isinstance(ids, Mapping) else ids
            for batch in batched(wanted, self._relays[url].ids_per_request):
                await self._query(url, Filter(ids=batch, limit=len(batch)), add)

        most = max((len(ids.get(url, ()) if isinstance(ids, Mapping) else ids) for url in stored), default=0)
        await self._ask_each({url: ask(url) for url in stored}, arrived_at, events=most)
        return stored

    async def stored_counts(self, ids: Mapping[str, Sequence[bytes]]) -> dict[str, int]:
        """Return how many of the events each relay says to have (NIP-45), of relays that offer and answer that.

        Args:
            ids: Ids of the events, by address of the relay.
        """
        counts: dict[str, int] = {}

        async def ask(url: str) -> None:
            relay, total = self._relays[url], 0
            try:
                for batch in batched(ids[url], relay.ids_per_request):
                    count = await self._connection(url).count(Filter(ids=batch, limit=len(batch)))
                    if count is None:
                        return
                    total += count
            except (TransportError, PeerError):
                relay.offers_count = False
            else:
                counts[url] = total

        await self._ask_each({url: ask(url) for url in self.urls if ids.get(url) and self._relays[url].offers_count})
        return counts

    async def _query(
        self, url: str, wanted: Filter, on_event: OnEvent, *, is_late: Callable[[], bool] = lambda: False
    ) -> None:
        """Query one relay, a second time if its connection broke; drop it if that fails.

        Once `is_late`, others may use the connection too, and find out by themselves that it failed.
        """
        relay = self._relays[url]
        if relay.status is not RelayStatus.CONNECTED:
            return
        try:
            try:
                await self._connection(url).query(wanted, on_event)
            except (RelayRefused, RelayTimeout):
                raise
            except TransportError:
                if is_late():
                    return
                await (await self._reopen(url)).query(wanted, on_event)
        except (TransportError, PeerError) as error:
            if not is_late():
                relay.fail(RelayStatus.DROPPED, error)

    async def _ask_each(
        self,
        asks: Mapping[str, Coroutine[None, None, None]],
        arrived_at: Mapping[str, float] = MappingProxyType({}),
        *,
        events: int = 0,
    ) -> None:
        """Ask relays, and leave out those that are much slower than the first.

        Args:
            asks: What to run, by relay.
            arrived_at: Loop time at which each relay last delivered something.
            events: Number of events that are asked for, each of which gives a relay more time.
        """
        tasks = {url: self._start(ask, f"ask {url}") for url, ask in asks.items()}

        def moved_at() -> float:
            return max(
                (arrived_at.get(url, -math.inf) for url, task in tasks.items() if not task.done()), default=-math.inf
            )

        try:
            await settle(
                tasks.values(),
                enough=lambda: any(task.done() and url in self.urls for url, task in tasks.items()),
                settle_s=self._settle_s,
                moved_at=moved_at,
                event_s=events * self.timeouts.straggler_event_s,
            )
            self._leave_out({url for url, task in tasks.items() if not task.done()})
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    def _leave_out(self, urls: Iterable[str]) -> None:
        """Do not wait for slow relays: drop them if the pool waits for all, otherwise note that they are late."""
        for url in urls:
            if self._wait_for_all:
                self.drop(url, TOO_SLOW)
            else:
                self._late.add(url)
                self._relays[url].reason = f"{url}: no complete answer yet"
