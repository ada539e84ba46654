"""Parallel fetch of wanted events from several relays: executes a `gather_plan`. Does network I/O.

Each relay has two requests open, so it never waits for us between them, and gets its next batch when one is answered:
faster relays carry more. Once no key is unassigned, an idle relay duplicates requests of a slow one (endgame).
Gathering ends with the last wanted event, not with the last answer; if wanted, also when a relay has nothing to add
and the others deliver nothing.
"""

import asyncio
import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from relay_client.connection import Connection
from relay_client.errors import PeerError, RelayRefused, TransportError
from relay_client.event import claimed_id, first_tag_value
from relay_client.filter import Filter
from relay_client.gather_plan import GatherPlan
from relay_client.settle import settle

REQUESTS_PER_RELAY = 2  # with one, a relay idles for a round trip between requests; more bring nothing
_MAX_EVENTS_BY_HASH = 100  # per request: the smallest result limit seen on a relay

# Gets the relay's address and an unverified event; returns whether the event is a wanted one, verified and kept.
AcceptEvent = Callable[[str, Mapping[str, object]], bool]
OnFailure = Callable[[str, TransportError | PeerError], None]


@dataclass(slots=True, kw_only=True)
class Reputation:
    """Addresses of relays that did less than they should."""

    misbehaving: set[str] = field(default_factory=set)  # sent an invalid event: asked last
    late: set[str] = field(default_factory=set)  # owed an answer when the last question settled: not waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLookup:
    """Mapping of wanted keys (in hex) to a filter, and of an unverified event to the key it claims."""

    filter: Callable[[Sequence[str]], Filter]
    key: Callable[[Mapping[str, object]], str | None]
    relay_can_verify: bool  # so an invalid event counts against the relay that sent it


BY_ID = KeyLookup(
    filter=lambda keys: Filter(ids=tuple(map(bytes.fromhex, keys)), limit=len(keys)),
    key=claimed_id,
    relay_can_verify=True,  # the id is the hash of the event
)


def by_hash(kind: int) -> KeyLookup:
    """Look up events of a kind by the hash in their tag `x`, from any author; relays cannot verify that hash."""
    return KeyLookup(
        filter=lambda keys: Filter(kinds=(kind,), tags={"x": tuple(keys)}, limit=_MAX_EVENTS_BY_HASH),
        key=lambda raw_event: first_tag_value(raw_event, "x"),
        relay_can_verify=False,
    )


async def gather_events(
    connections: Sequence[Connection],
    keys: Sequence[str],
    accept: AcceptEvent,
    *,
    lookup: KeyLookup = BY_ID,
    reputation: Reputation,
    on_failure: OnFailure,
    endgame_s: float,
    settle_s: float = math.inf,
) -> list[str]:
    """Request events from relays until all arrived, every relay was asked, or the slow ones are not waited for.

    Args:
        connections: Open connections, one per relay.
        keys: Wanted keys in hex: event ids, or hashes (see `lookup`).
        accept: Called for each unverified event; returns whether it is a wanted one, verified and kept.
        lookup: How the keys are turned into filters, and events back into keys.
        reputation: What relays did before; updated.
        on_failure: Called with the address of a relay that failed, and the error.
        endgame_s: Seconds until an idle relay is asked for what another one owes.
        settle_s: Seconds without a wanted event after which relays are not waited for, once one has nothing to add;
            none for relays that were late before, unless they deliver something.

    Returns:
        The keys that did not arrive.

    Raises:
        Exception: Whatever `accept` raises.
    """
    plan = GatherPlan(keys, [connection.url for connection in connections], reputation.misbehaving)
    workers = _Workers(plan, accept, lookup, reputation.misbehaving, endgame_s)
    failed: set[str] = set()

    async def work(connection: Connection) -> None:
        try:
            await workers.run(connection)
        except (TransportError, PeerError) as error:
            if isinstance(error, RelayRefused) and workers.open_requests[connection.url]:
                return  # the relay accepts fewer requests at a time
            plan.remove_relay(connection.url)
            failed.add(connection.url)
            on_failure(connection.url, error)

    for _ in range(REQUESTS_PER_RELAY):
        workers.tasks += [(connection.url, asyncio.create_task(work(connection))) for connection in connections]
    try:
        await _settle(workers, failed=failed, late=reputation.late, settle_s=settle_s)
        reputation.late.difference_update(connection.url for connection in connections)
        if not plan.complete:
            reputation.late |= workers.pending
    finally:
        for _, task in workers.tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in workers.tasks), return_exceptions=True)
    return plan.wanted


async def _settle(workers: "_Workers", *, failed: Collection[str], late: Collection[str], settle_s: float) -> None:
    """Wait for the workers as `gather_events` says."""
    urls = {url for url, _ in workers.tasks}

    def enough() -> bool:
        return bool(urls - workers.pending - set(failed))

    def moved_at() -> float:
        return max((workers.accepted_at[url] for url in workers.pending), default=-math.inf)

    prompt = [task for url, task in workers.tasks if url not in late]
    await settle(prompt, enough=enough, settle_s=settle_s, moved_at=moved_at)
    if not enough() or moved_at() + settle_s > asyncio.get_running_loop().time():
        await settle([task for _, task in workers.tasks], enough=enough, settle_s=settle_s, moved_at=moved_at)


class _Workers:
    """State shared by the workers of one gathering; each worker has one request open at one relay."""

    def __init__(
        self, plan: GatherPlan, accept: AcceptEvent, lookup: KeyLookup, misbehaving: set[str], endgame_s: float
    ) -> None:
        self.tasks: list[tuple[str, asyncio.Task[None]]] = []  # relay, worker
        self.accepted_at: defaultdict[str, float] = defaultdict(lambda: -math.inf)  # relay -> loop time
        self.open_requests: Counter[str] = Counter()  # by relay
        self._plan = plan
        self._accept = accept
        self._lookup = lookup
        self._misbehaving = misbehaving
        self._endgame_s = endgame_s if len(plan.wanted) > 1 else 0  # a single event is requested from every relay
        self._requeued = asyncio.Event()  # set, and replaced, when keys return to the plan

    @property
    def pending(self) -> set[str]:
        """Relays with a worker that is not done."""
        return {url for url, task in self.tasks if not task.done()}

    async def run(self, connection: Connection) -> None:
        """Send one request after the other until this relay has nothing to add; raises what its queries raise."""
        while batch := await self._next_batch(connection.url):
            await self._request(connection, batch)

    async def _next_batch(self, url: str) -> list[str]:
        while self._plan.may_need(url):
            if batch := self._plan.next_batch(url):
                return batch
            before = self._plan.remaining
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._endgame_s):
                    await self._requeued.wait()
                    continue
            if not self._plan.nearly_done(before) and (batch := self._plan.endgame_batch(url)):
                return batch
        return []

    async def _request(self, connection: Connection, batch: list[str]) -> None:
        left, stop, junk = set(batch), False, False

        def on_event(raw_event: Mapping[str, object]) -> bool:
            nonlocal stop, junk
            key = self._lookup.key(raw_event)
            if key not in left:
                return False
            if not self._plan.wants(key) or self._take(connection.url, key, raw_event):
                left.remove(key)
            elif self._lookup.relay_can_verify:
                stop = self._plan.report_invalid(connection.url, key)  # the first invalid event ends the request
                self._misbehaving.add(connection.url)
            else:
                junk = True
            return stop or not left

        answered = False
        self.open_requests[connection.url] += 1
        try:
            await connection.query(self._lookup.filter(batch), on_event)
            progress = len(left) < len(batch)  # the rest may have exceeded a result limit of the relay's
            crowded = junk and not progress and self._plan.shrink_batch(connection.url, len(batch))
            answered = not (stop or progress or crowded)
        finally:
            self.open_requests[connection.url] -= 1
            self._plan.requeue(connection.url, batch, answered=answered)
            self._requeued.set()
            self._requeued = asyncio.Event()

    def _take(self, url: str, key: str, raw_event: Mapping[str, object]) -> bool:
        """Offer an event and return whether it was kept; the last one ends all workers."""
        if not self._accept(url, raw_event):
            return False
        self._plan.mark_received(key)
        self.accepted_at[url] = asyncio.get_running_loop().time()
        if self._plan.complete:
            for _, task in self.tasks:
                task.cancel()
        return True
