"""Many relays as one: send events to all of them, gather events from any of them. Does network I/O."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from types import MappingProxyType

from relay_client.allocation import Allocation
from relay_client.backoff import Backoff
from relay_client.connection import OnEvent
from relay_client.errors import InvalidEvent, PeerError, RelayRefused, RelayTimeout, TransportError
from relay_client.event import Event, HashedEvent
from relay_client.event_source import Answer
from relay_client.filter import Filter
from relay_client.gather import BY_ID, AcceptEvent, KeyLookup, gather_events
from relay_client.pool_connections import PoolConnections
from relay_client.relay_status import RelayStatus
from relay_client.sender import OnAccepted, RelaySender, run_senders
from relay_client.settle import TOO_SLOW, settle

OnRelayEvent = Callable[[str, Mapping[str, object]], bool | None]

_RECONNECTS = 3  # attempts without progress to gather the rest from relays whose connection broke
_READ_RETRIES = 6  # of reading what a relay accepted


class Pool(PoolConnections):
    """Open connections to several relays; an async context manager.

    Raises CallerError if an address is wrong; entering raises TransportError if no relay can be reached. A relay that
    fails later is dropped; `reports` has the reason.

    Args:
        urls: Addresses of the relays; two spellings of one count once.
        signer: Authenticates (NIP-42) at relays that require it, except those known from hints.
        hints: Untrusted addresses, used only if the relays above lack something.
        wait_for_all: If false, entering waits only a short time for the other relays once one is connected (they are
            used when they are), and questions do so once one has answered. If true, relays that are slow to answer are
            waited for longer, and then dropped.
        timeouts: How long to wait for relays, and between attempts.
    """

    async def publish(self, events: Iterable[tuple[Event, Sequence[str]]]) -> None:
        """Send each event to the relays given with it, and wait for every answer; `reports` has the counts."""
        listed, urls = list(events), self.urls
        elsewhere = {url: {number for number, (_, targets) in enumerate(listed) if url not in targets} for url in urls}
        allocation = Allocation(urls, [len(urls)] * len(listed), stored=elsewhere)
        await self.send(allocation, lambda number: listed[number][0])

    async def send(
        self,
        allocation: Allocation,
        make_event: Callable[[int], Event],
        on_accepted: OnAccepted = lambda _url, _number: None,
    ) -> None:
        """Send each relay its share, as fast as it accepts events; `reports` has the counts.

        A relay that refuses an event or keeps failing is dropped, and its share moves to the others. So is one that
        owes an answer for long when another has taken its share.

        Args:
            allocation: Which relay gets which event numbers.
            make_event: Makes the event of a number; called once per relay, and again for each retry.
            on_accepted: Called with (relay, number) of each event that is stored.

        Raises:
            Exception: Whatever `make_event` and `on_accepted` raise, and nothing else.
        """
        for url in set(allocation.relays).difference(self.urls):
            allocation.drop(url, keeps=False)
        senders = {url: self._sender(url, allocation, make_event, on_accepted) for url in allocation.relays}

        def fail(url: str, error: TransportError | PeerError) -> None:
            self._relays[url].fail(RelayStatus.DROPPED, error)

        await run_senders(senders, allocation, on_failure=fail, straggler_s=self.timeouts.straggler_s)

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
            size = self._relays[url].ids_per_request
            for start in range(0, len(wanted), size):
                batch = tuple(wanted[start : start + size])
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
                for start in range(0, len(ids[url]), relay.ids_per_request):
                    batch = tuple(ids[url][start : start + relay.ids_per_request])
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

    async def wait_until_readable(self, find_readable: Callable[[], Awaitable[set[str]]]) -> set[str]:
        """Wait until every relay returns what it accepted; some accept an event before it can be read, or lose it.

        Args:
            find_readable: Asks relays for the events; returns the addresses of those that have them.

        Returns:
            The relays that never did (unconfirmed).
        """
        wait_s = self.timeouts.readable_first_s
        for _ in range(_READ_RETRIES):
            readable = await find_readable()
            if readable.issuperset(self.urls):
                return set()
            await asyncio.sleep(wait_s)
            wait_s *= 2
        readable = await find_readable()
        return set(self.urls) - readable

    @property
    def owes_answers(self) -> bool:
        """True if a relay was not waited for, or lost its connection: asking again may bring more."""
        return bool(self._late or self._disconnected())

    @property
    def lacking(self) -> str:
        """Beginning of an error about something that is missing."""
        return "no relay has"

    @property
    def advice(self) -> str:
        """What to do about something that is missing."""
        return "run it again later"

    async def gather(
        self, keys: Iterable[bytes], accept: AcceptEvent, lookup: KeyLookup = BY_ID, *, patient: bool = True
    ) -> list[bytes]:
        """Fetch events by key from all relays at once, until each arrived somewhere.

        Relays whose connection broke are reconnected, and hints followed, only if the others lack something. Unless
        the pool waits for all relays, slow ones are waited for only if the hints lack something too. A relay that
        sends an invalid event is asked last from then on (`misbehaving`).

        Args:
            keys: Wanted keys of 32 bytes each: event ids, or hashes (see `lookup`).
            accept: Called for each unverified event; returns whether it is a wanted one, verified and kept.
            lookup: How the keys are turned into filters, and events back into keys.
            patient: Wait for slow relays, and reconnect lost ones, if the others lack something. Otherwise another
                call may do so (`owes_answers`).

        Returns:
            The keys that did not arrive.

        Raises:
            Exception: Whatever `accept` raises.
        """
        settle_s = self._settle_s
        patient = patient or self._wait_for_all
        missing = await self._gather(self.urls, [key.hex() for key in keys], accept, lookup, settle_s)
        if missing and (patient or not self.urls):
            missing = await self._gather_from_lost(missing, accept, lookup, settle_s)
        if missing and (joined := await self.connect_hints()):
            missing = await self._gather(joined, missing, accept, lookup, settle_s)
        if missing and patient and (late := [url for url in self.urls if url in self._late]):
            missing = await self._gather(late, missing, accept, lookup, math.inf)
        return [bytes.fromhex(key) for key in missing]

    def _sender(
        self, url: str, allocation: Allocation, make_event: Callable[[int], Event], on_accepted: OnAccepted
    ) -> RelaySender:
        return RelaySender(
            url=url,
            connection=self._connection(url),
            reopen=self._reopen,
            open_second=self._connect,
            rate_control=self._relays[url].rate_control,
            allocation=allocation,
            make_event=make_event,
            counts=self._relays[url].counts,
            on_accepted=on_accepted,
            timeouts=self.timeouts,
        )

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

    async def _gather(
        self, urls: Sequence[str], keys: Sequence[str], accept: AcceptEvent, lookup: KeyLookup, settle_s: float
    ) -> list[str]:
        def fail(url: str, error: TransportError | PeerError) -> None:
            broke = isinstance(error, TransportError) and not isinstance(error, RelayRefused | RelayTimeout)
            self._relays[url].fail(RelayStatus.DISCONNECTED if broke else RelayStatus.DROPPED, error)

        missing = await gather_events(
            [self._connection(url) for url in urls],
            keys,
            accept,
            lookup=lookup,
            reputation=self._reputation,
            on_failure=fail,
            endgame_s=self.timeouts.endgame_s,
            settle_s=settle_s,
        )
        if self._wait_for_all:
            self._leave_out(self._late & set(self.urls))
        return missing

    async def _gather_from_lost(
        self, missing: Sequence[str], accept: AcceptEvent, lookup: KeyLookup, settle_s: float
    ) -> list[str]:
        """Reconnect relays whose connection broke, and gather from them; drop those that stay lost."""
        attempts, backoff, missing = _RECONNECTS, Backoff(self.timeouts), list(missing)
        while missing and attempts and self._disconnected():
            await asyncio.sleep(backoff.next())
            before, attempts = len(missing), attempts - 1
            missing = await self._gather(await self._reconnect_lost(), missing, accept, lookup, settle_s)
            if len(missing) < before:
                attempts, backoff = _RECONNECTS, Backoff(self.timeouts)
        for relay in self._disconnected():
            relay.status = RelayStatus.DROPPED
        return missing
