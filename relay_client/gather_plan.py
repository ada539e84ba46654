"""Which relay is asked for which of the wanted events: a ledger without I/O and without a clock.

A wanted key (an event id or a hash, in hex) is free, or being asked of some relays, or settled. A relay that answered
without it is not asked for it again. A relay that was caught lying is asked last: for what no other relay still
asked of could give.
"""

from collections.abc import Iterable
from itertools import chain, islice

IDS_PER_REQUEST = 50  # under the smallest result limit seen on a relay (100), and 3 MB of chunk events
_SMALL_SHARE = 10  # not worth dividing
_SOON = 4  # times a wait that is not worth asking for the same twice


class GatherPlan:
    """Hands out shares of the wanted keys to relays, which are known by their addresses."""

    def __init__(self, keys: Iterable[str], relays: Iterable[str], misbehaving: Iterable[str] = ()) -> None:
        self._unassigned = dict.fromkeys(keys)  # wanted, and nobody is being asked; in order
        self._in_flight: dict[str, set[str]] = {}  # wanted -> the relays being asked
        self._lacking: dict[str, set[str]] = {url: set() for url in relays}  # relay -> what it answered without
        self._misbehaving = set(misbehaving)
        self._max_batch = dict.fromkeys(self._lacking, IDS_PER_REQUEST)  # keys in one request

    @property
    def wanted(self) -> list[str]:
        """The keys not settled yet, what is being asked for first."""
        return [*self._in_flight, *self._unassigned]

    @property
    def remaining(self) -> int:
        """How many keys are not settled yet."""
        return len(self._unassigned) + len(self._in_flight)

    def nearly_done(self, before: int) -> bool:
        """Whether a few more times as long as it took to come here from `before` keys will settle the rest."""
        return _SOON * (before - self.remaining) >= self.remaining

    @property
    def complete(self) -> bool:
        """Whether nothing is wanted any more."""
        return self.remaining == 0

    def wants(self, key: str) -> bool:
        """Whether a key is not settled yet."""
        return key in self._in_flight or key in self._unassigned

    def may_need(self, url: str) -> bool:
        """Whether there may ever be something to ask of a relay beyond what it is being asked for now."""
        without = self._lacking.get(url)
        if without is None:
            return False
        return any(
            key not in without and url not in self._in_flight.get(key, ())
            for key in chain(self._unassigned, self._in_flight)
        )

    def next_batch(self, url: str) -> list[str]:
        """The next share of what is free. The fewer keys are left for each relay, the smaller it is."""
        size = min(
            self._max_batch[url], max(_SMALL_SHARE, -(-len(self._unassigned) // max(1, len(self._well_behaved))))
        )
        return self._hand_out(url, islice((key for key in self._unassigned if self._may_ask(url, key)), size))

    def endgame_batch(self, url: str) -> list[str]:
        """A share of what others are being asked for: first what is asked of the fewest."""
        owed = [key for key, relays in self._in_flight.items() if url not in relays and self._may_ask(url, key)]
        return self._hand_out(url, sorted(owed, key=lambda key: len(self._in_flight[key]))[: self._max_batch[url]])

    def shrink_batch(self, url: str, size: int) -> bool:
        """Ask a relay for less at a time, as so many keys brought nothing of use; returns whether that is possible."""
        self._max_batch[url] = min(self._max_batch[url], max(1, size // 2))
        return size > 1

    def mark_received(self, key: str) -> None:
        """Nobody needs to be asked for this key any more."""
        self._unassigned.pop(key, None)
        self._in_flight.pop(key, None)

    def requeue(self, url: str, share: Iterable[str], *, answered: bool) -> None:
        """A request is over. What it asked for and is still wanted is free again, where no other is asked for it.

        If it was `answered`, the relay does not have those, and is not asked for them again.
        """
        unsettled = [key for key in share if key in self._in_flight]
        if answered and url in self._lacking:
            self._lacking[url].update(unsettled)
        for key in unsettled:
            self._in_flight[key].discard(url)
            if not self._in_flight[key]:
                del self._in_flight[key]
                self._unassigned[key] = None

    def report_invalid(self, url: str, key: str) -> bool:
        """A relay gave a wrong event for a key. Returns whether that is its first lie."""
        if url in self._lacking:
            self._lacking[url].add(key)
        first = url not in self._misbehaving
        self._misbehaving.add(url)
        return first

    def remove_relay(self, url: str) -> None:
        """A relay is gone: no other waits for it."""
        self._lacking.pop(url, None)

    @property
    def _well_behaved(self) -> set[str]:
        return self._lacking.keys() - self._misbehaving

    def _may_ask(self, url: str, key: str) -> bool:
        without = self._lacking.get(url)
        if without is None or key in without:
            return False
        return url not in self._misbehaving or all(key in self._lacking[other] for other in self._well_behaved)

    def _hand_out(self, url: str, keys: Iterable[str]) -> list[str]:
        share = list(keys)
        for key in share:
            self._unassigned.pop(key, None)
            self._in_flight.setdefault(key, set()).add(url)
        return share
