"""Replica allocation: which relay gets which event, so that each event has enough copies. No I/O.

Events are numbers, in the order of sending. The share of a relay that is dropped moves to the others.
"""

import heapq
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Share:
    assigned: set[int] = field(default_factory=set)  # waiting, in flight and stored
    waiting: list[int] = field(default_factory=list)  # a heap: the lowest number goes first
    stored: set[int] = field(default_factory=set)


class Allocation:
    """Assignment of events to relays, and its state: what is waiting for, in flight to, and stored by each relay.

    Args:
        relays: Addresses of the relays.
        copies: Number of relays that should store each event.
        stored: Events that each relay stores already.
        barrier: Events from this number on wait until every event below it has all its copies.
    """

    def __init__(
        self,
        relays: Sequence[str],
        copies: Sequence[int],
        *,
        stored: Mapping[str, Container[int]] | None = None,
        barrier: int | None = None,
    ) -> None:
        self._shares = {relay: _Share() for relay in relays}
        self._stored_elsewhere: set[int] = set()  # events with a copy at a dropped relay
        self._total = len(copies)
        self._barrier = len(copies) if barrier is None else barrier
        self._open_below_barrier = 0  # copies
        for number, count in enumerate(copies):
            turn = number % max(1, len(relays))
            order = [*relays[turn:], *relays[:turn]]
            holders = [relay for relay in order if number in (stored or {}).get(relay, ())]
            for relay in holders:
                self._shares[relay].assigned.add(number)
                self._shares[relay].stored.add(number)
            others = [relay for relay in order if relay not in holders]
            for relay in others[: max(0, count - len(holders))]:
                self._assign(relay, number)

    @property
    def relays(self) -> list[str]:
        """Addresses of the relays that were not dropped."""
        return list(self._shares)

    @property
    def pending(self) -> int:
        """Number of copies not stored yet."""
        return sum(len(share.assigned) - len(share.stored) for share in self._shares.values())

    @property
    def unplaced(self) -> list[int]:
        """Events with no stored copy and no relay left to take them."""
        placed = self._stored_elsewhere.union(*(share.assigned for share in self._shares.values()))
        return [number for number in range(self._total) if number not in placed]

    def missing_from(self, relay: str) -> list[int]:
        """Return the events assigned to a relay and not stored by it yet, in order."""
        share = self._shares[relay]
        return sorted(share.assigned - share.stored)

    def waiting(self, relay: str) -> int:
        """Return how many events are waiting to be sent to a relay, without those in flight."""
        return len(self._shares[relay].waiting)

    def has_work(self, relay: str) -> bool:
        """Return whether `next` has an event for a relay."""
        share = self._shares.get(relay)
        return bool(share and share.waiting and (share.waiting[0] < self._barrier or not self._open_below_barrier))

    def next(self, relay: str) -> int | None:
        """Take the next event to send to a relay, which is then in flight; None if none may be sent now."""
        if not self.has_work(relay):
            return None
        return heapq.heappop(self._shares[relay].waiting)

    def mark_stored(self, relay: str, number: int) -> None:
        """Record that a relay stored an event that was in flight to it."""
        self._shares[relay].stored.add(number)
        self._open_below_barrier -= number < self._barrier

    def stored_by(self, relay: str) -> set[int]:
        """Return the events that a relay stored, as far as it said so."""
        return set(self._shares[relay].stored)

    def mark_lost(self, relay: str, number: int) -> None:
        """Record that a relay does not have an event that it stored; the event waits to be sent to it again."""
        self._shares[relay].stored.remove(number)
        self._open_below_barrier += number < self._barrier
        self.requeue(relay, number)

    def requeue(self, relay: str, number: int) -> None:
        """Return an event that was in flight to the queue of the same relay."""
        heapq.heappush(self._shares[relay].waiting, number)

    def drop(self, relay: str, *, keeps: bool) -> None:
        """Remove a relay and reassign its share.

        If `keeps`, copies it already stored still count; otherwise they are reassigned too.
        """
        share = self._shares.pop(relay)
        unsent = share.assigned - share.stored
        self._open_below_barrier -= sum(number < self._barrier for number in unsent)
        if keeps:
            self._stored_elsewhere |= share.stored
        for number in sorted(unsent if keeps else share.assigned):
            others = [other for other, theirs in self._shares.items() if number not in theirs.assigned]
            if others:
                self._assign(min(others, key=lambda other: len(self._shares[other].waiting)), number)

    def _assign(self, relay: str, number: int) -> None:
        self._shares[relay].assigned.add(number)
        heapq.heappush(self._shares[relay].waiting, number)
        self._open_below_barrier += number < self._barrier
