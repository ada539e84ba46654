"""Request scheduler for `gather`: which relay is asked for which wanted events. No I/O, no clock.

A wanted key (an event id or a hash, in hex) is unassigned, in flight at some relays, or received. A relay that answered
without a key is not asked for it again. A misbehaving relay is asked last: only for keys that no other relay has left.
"""

from collections.abc import Iterable
from itertools import chain, islice

IDS_PER_REQUEST = 50  # below the smallest result limit seen on a relay (100); 3 MB of chunk events
_MIN_BATCH = 10  # smaller batches cost more round trips than they balance
_SOON = 4  # intervals at the current rate that are not worth duplicate requests


class GatherPlan:
    """Assignment of batches of wanted keys to relays.

    Args:
        keys: Wanted keys, in the order of asking.
        relays: Addresses of the relays.
        misbehaving: Relays to ask last.
    """

    def __init__(self, keys: Iterable[str], relays: Iterable[str], misbehaving: Iterable[str] = ()) -> None:
        self._unassigned = dict.fromkeys(keys)  # wanted and requested from no relay, in order
        self._in_flight: dict[str, set[str]] = {}  # wanted key -> relays asked for it now
        self._lacking: dict[str, set[str]] = {url: set() for url in relays}  # relay -> keys it answered without
        self._misbehaving = set(misbehaving)
        self._max_batch = dict.fromkeys(self._lacking, IDS_PER_REQUEST)

    @property
    def wanted(self) -> list[str]:
        """Keys not received yet, those in flight first."""
        return [*self._in_flight, *self._unassigned]

    @property
    def remaining(self) -> int:
        """Number of keys not received yet."""
        return len(self._unassigned) + len(self._in_flight)

    @property
    def complete(self) -> bool:
        """True once every key was received."""
        return self.remaining == 0

    def nearly_done(self, before: int) -> bool:
        """Return whether the rest will arrive within 4 more intervals at the current rate.

        Then duplicate requests do not pay.

        Args:
            before: `remaining` at the start of the last interval.
        """
        return _SOON * (before - self.remaining) >= self.remaining

    def wants(self, key: str) -> bool:
        """Return whether a key is wanted and not received yet."""
        return key in self._in_flight or key in self._unassigned

    def may_need(self, url: str) -> bool:
        """Return whether some wanted key could still be requested from this relay."""
        lacking = self._lacking.get(url)
        if lacking is None:
            return False
        return any(
            key not in lacking and url not in self._in_flight.get(key, ())
            for key in chain(self._unassigned, self._in_flight)
        )

    def next_batch(self, url: str) -> list[str]:
        """Assign the next unassigned keys to a relay; batches shrink towards the end so that relays finish together."""
        share = -(-len(self._unassigned) // max(1, len(self._well_behaved)))
        size = min(self._max_batch[url], max(_MIN_BATCH, share))
        return self._assign(url, islice((key for key in self._unassigned if self._may_ask(url, key)), size))

    def endgame_batch(self, url: str) -> list[str]:
        """Assign keys in flight at other relays to this relay too, least-requested first."""
        owed = [key for key, relays in self._in_flight.items() if url not in relays and self._may_ask(url, key)]
        return self._assign(url, sorted(owed, key=lambda key: len(self._in_flight[key]))[: self._max_batch[url]])

    def shrink_batch(self, url: str, size: int) -> bool:
        """Halve a relay's batches after `size` keys brought only junk; returns False if the batch was a single key."""
        self._max_batch[url] = min(self._max_batch[url], max(1, size // 2))
        return size > 1

    def mark_received(self, key: str) -> None:
        """Remove a key from the plan."""
        self._unassigned.pop(key, None)
        self._in_flight.pop(key, None)

    def requeue(self, url: str, batch: Iterable[str], *, answered: bool) -> None:
        """End a relay's request; keys of its batch that are in flight nowhere else become unassigned.

        If `answered`, the relay does not have those still wanted, and is not asked for them again.
        """
        open_keys = [key for key in batch if key in self._in_flight]
        if answered and url in self._lacking:
            self._lacking[url].update(open_keys)
        for key in open_keys:
            self._in_flight[key].discard(url)
            if not self._in_flight[key]:
                del self._in_flight[key]
                self._unassigned[key] = None

    def report_invalid(self, url: str, key: str) -> bool:
        """Record that a relay sent an invalid event for a key; returns whether it is the relay's first."""
        if url in self._lacking:
            self._lacking[url].add(key)
        first = url not in self._misbehaving
        self._misbehaving.add(url)
        return first

    def remove_relay(self, url: str) -> None:
        """Stop assigning keys to a relay."""
        self._lacking.pop(url, None)

    @property
    def _well_behaved(self) -> set[str]:
        return self._lacking.keys() - self._misbehaving

    def _may_ask(self, url: str, key: str) -> bool:
        lacking = self._lacking.get(url)
        if lacking is None or key in lacking:
            return False
        return url not in self._misbehaving or all(key in self._lacking[other] for other in self._well_behaved)

    def _assign(self, url: str, keys: Iterable[str]) -> list[str]:
        batch = list(keys)
        for key in batch:
            self._unassigned.pop(key, None)
            self._in_flight.setdefault(key, set()).add(url)
        return batch
