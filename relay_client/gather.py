"""Wanted events, shared out among relays: the edge around `plan`. Does network I/O.

Every relay has two requests open, so it need not wait for us between them, and takes its next share when it has
answered one: the faster ones carry more. An idle relay soon takes over what a slow one owes, and a gather ends with the
last event it wants, not with the last answer.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from relay_client.connection import Connection
from relay_client.errors import PeerError, RelayRefused, TransportError
from relay_client.event import raw_tag
from relay_client.filter import Filter
from relay_client.gather_plan import GatherPlan

# Measured: four times as fast as one request where a relay's last frame waits for ours, and as fast as four.
REQUESTS_PER_RELAY = 2
_PATIENCE_S = 0.5  # how long an idle relay waits before it takes over what another owes
_MAX_COPIES = 100  # events that a request for copies may bring: the smallest result limit seen on a relay

# Gets the relay's address and an unverified event; says whether the event is the one wanted, verified and kept.
Offer = Callable[[str, Mapping[str, object]], bool]
OnFailure = Callable[[str, TransportError | PeerError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What the keys of a hunt are: how to ask for some of them, and which one an unverified event claims to be."""

    filter: Callable[[Sequence[str]], Filter]
    key: Callable[[Mapping[str, object]], str | None]
    blames: bool  # whether a wrong event is the fault of the relay that gave it


BY_ID = Lookup(
    filter=lambda keys: Filter(ids=tuple(map(bytes.fromhex, keys)), limit=len(keys)),
    key=lambda raw_event: str(raw_event.get("id")),
    blames=True,  # the id is the hash of the event
)


def by_hash(kind: int) -> Lookup:
    """Events of a kind whose tag `x` is a wanted hash, by anyone: a relay cannot know whether they lie."""
    return Lookup(
        filter=lambda keys: Filter(kinds=(kind,), tags={"x": tuple(keys)}, limit=_MAX_COPIES),
        key=lambda raw_event: raw_tag(raw_event, "x"),
        blames=False,
    )


async def gather_events(
    connections: Sequence[Connection],
    keys: Sequence[str],
    offer: Offer,
    *,
    lookup: Lookup = BY_ID,
    misbehaving: set[str],
    on_failure: OnFailure,
) -> list[str]:
    """Request events from relays until all arrived or every relay was asked.

    Args:
        connections: Open connections, one per relay.
        keys: Wanted keys in hex: event ids, or hashes (see `lookup`).
        offer: Called for each unverified event; returns whether it is a wanted one, verified and kept.
        lookup: How the keys are turned into filters, and events back into keys.
        misbehaving: Relays that are asked last; a relay that sends an invalid event is added.
        on_failure: Called with the address of a relay that failed, and the error.

    Returns:
        The keys that did not arrive.

    Raises:
        Exception: Whatever `offer` raises.
    """
    plan = GatherPlan(keys, [connection.url for connection in connections], misbehaving)
    gather = _Gather(plan, offer, lookup, misbehaving)

    async def work(connection: Connection) -> None:
        try:
            await gather.run(connection)
        except (TransportError, PeerError) as error:
            if isinstance(error, RelayRefused) and gather.open[connection.url]:
                return  # it wants fewer requests at a time
            plan.remove_relay(connection.url)
            on_failure(connection.url, error)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(REQUESTS_PER_RELAY):
                gather.workers += [group.create_task(work(connection)) for connection in connections]
    except BaseExceptionGroup as group_error:  # what `offer` raised, as it raised it
        raise group_error.exceptions[0] from None
    return plan.wanted


class _Gather:
    def __init__(self, plan: GatherPlan, offer: Offer, lookup: Lookup, misbehaving: set[str]) -> None:
        self.workers: list[asyncio.Task[None]] = []
        self.open: Counter[str] = Counter()  # requests, by relay
        self._plan = plan
        self._offer = offer
        self._lookup = lookup
        self._misbehaving = misbehaving
        self._patience_s = _PATIENCE_S if len(plan.wanted) > 1 else 0  # one event is asked of every relay at once
        self._freed = asyncio.Event()  # set, and replaced, when a share is given back

    async def run(self, connection: Connection) -> None:
        """One request after the other, until there is nothing to ask of this relay; raises what its queries raise."""
        while share := await self._next(connection.url):
            await self._ask(connection, share)

    async def _next(self, url: str) -> list[str]:
        while self._plan.may_need(url):
            if share := self._plan.next_batch(url):
                return share
            before = self._plan.remaining
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s):
                    await self._freed.wait()
                    continue
            if not self._plan.nearly_done(before) and (share := self._plan.endgame_batch(url)):
                return share
        return []

    async def _ask(self, connection: Connection, share: list[str]) -> None:
        left, caught, junk = set(share), False, False

        def on_event(raw_event: Mapping[str, object]) -> bool:
            nonlocal caught, junk
            key = self._lookup.key(raw_event)
            if key not in left:
                return False
            if not self._plan.wants(key) or self._take(connection.url, key, raw_event):
                left.remove(key)
            elif self._lookup.blames:
                caught = self._plan.report_invalid(connection.url, key)  # a first lie ends the request
                self._misbehaving.add(connection.url)
            else:
                junk = True
            return caught or not left

        answered = False
        self.open[connection.url] += 1
        try:
            await connection.query(self._lookup.filter(share), on_event)
            came = len(left) < len(share)  # then what did not may have been over a limit of the relay's
            crowded = junk and not came and self._plan.shrink_batch(connection.url, len(share))
            answered = not (caught or came or crowded)
        finally:
            self.open[connection.url] -= 1
            self._plan.requeue(connection.url, share, answered=answered)
            self._freed.set()
            self._freed = asyncio.Event()

    def _take(self, url: str, key: str, raw_event: Mapping[str, object]) -> bool:
        """Offer an event; whether it was taken. The last one ends the hunt."""
        if not self._offer(url, raw_event):
            return False
        self._plan.mark_received(key)
        if self._plan.complete:
            for worker in self.workers:
                worker.cancel()
        return True
