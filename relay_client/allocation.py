"""Which relay gets which event, so that each event has as many copies as it should. No I/O.

Events are numbers, in the order of sending. What one relay will not take moves to the others.
"""

import heapq
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Share:
    numbers: set[int] = field(default_factory=set)  # all of them: waiting, under way and taken
    waiting: list[int] = field(default_factory=list)  # a heap: the lowest number goes first
    taken: set[int] = field(default_factory=set)


class Allocation:
    """The state of a delivery: what waits for each relay, is under way to it, and has been taken by it.

    `copies` says of each event how many relays should have it, `held` which have it already. Events from number `last`
    on are not given out before every event below it has all the copies it can have.
    """

    def __init__(
        self,
        relays: Sequence[str],
        copies: Sequence[int],
        *,
        held: Mapping[str, Container[int]] | None = None,
        last: int | None = None,
    ) -> None:
        self._shares = {relay: _Share() for relay in relays}
        self._stored_elsewhere: set[int] = set()  # have a copy at a relay that takes no more
        self._total = len(copies)
        self._last = len(copies) if last is None else last
        self._open_before_last = 0
        for number, count in enumerate(copies):
            turn = number % max(1, len(relays))
            order = [*relays[turn:], *relays[:turn]]
            holders = [relay for relay in order if number in (held or {}).get(relay, ())]
            for relay in holders:
                self._shares[relay].numbers.add(number)
                self._shares[relay].taken.add(number)
            others = [relay for relay in order if relay not in holders]
            for relay in others[: max(0, count - len(holders))]:
                self._assign(relay, number)

    @property
    def relays(self) -> list[str]:
        """The relays that still take part."""
        return list(self._shares)

    @property
    def pending(self) -> int:
        """Copies that are still to be taken."""
        return sum(len(share.numbers) - len(share.taken) for share in self._shares.values())

    def missing_from(self, relay: str) -> list[int]:
        """The events that a relay is still to take, in order."""
        share = self._shares[relay]
        return sorted(share.numbers - share.taken)

    @property
    def unplaced(self) -> list[int]:
        """Events that no relay has and none will take."""
        homes = self._stored_elsewhere.union(*(share.numbers for share in self._shares.values()))
        return [number for number in range(self._total) if number not in homes]

    def waiting(self, relay: str) -> int:
        """How many events are to be sent to a relay and are not under way."""
        return len(self._shares[relay].waiting)

    def has_work(self, relay: str) -> bool:
        """Whether `next` has something for a relay."""
        share = self._shares.get(relay)
        return bool(share and share.waiting and (share.waiting[0] < self._last or not self._open_before_last))

    def next(self, relay: str) -> int | None:
        """The event to send to a relay now, which is then under way; None if there is none for the time being."""
        if not self.has_work(relay):
            return None
        return heapq.heappop(self._shares[relay].waiting)

    def mark_stored(self, relay: str, number: int) -> None:
        """A relay has an event that was under way to it."""
        self._shares[relay].taken.add(number)
        self._open_before_last -= number < self._last

    def requeue(self, relay: str, number: int) -> None:
        """An event that was under way has to be sent to the same relay again."""
        heapq.heappush(self._shares[relay].waiting, number)

    def drop(self, relay: str, *, keeps: bool) -> None:
        """A relay takes part no more: its share moves to the others.

        Of what it took, a relay that `keeps` still is a home; one that does not is no home for anything.
        """
        share = self._shares.pop(relay)
        untaken = share.numbers - share.taken
        self._open_before_last -= sum(number < self._last for number in untaken)
        if keeps:
            self._stored_elsewhere |= share.taken
        for number in sorted(untaken if keeps else share.numbers):
            others = [other for other, theirs in self._shares.items() if number not in theirs.numbers]
            if others:
                self._assign(min(others, key=lambda other: len(self._shares[other].waiting)), number)

    def _assign(self, relay: str, number: int) -> None:
        self._shares[relay].numbers.add(number)
        heapq.heappush(self._shares[relay].waiting, number)
        self._open_before_last += number < self._last
