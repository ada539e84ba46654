"""Confirmation that relays return the chunks that they accepted, from a random sample. Does network I/O through a pool.

A relay can answer OK and store nothing, or only part of what it was sent. Readers would notice; so the author does. A
relay's own count (NIP-45) makes the sample smaller or larger, but never replaces it.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from relay_client.allocation import Allocation
from relay_client.pool import Pool

_LOSS = 0.02  # share of lost chunks that a sample must find
_MISS = 0.01  # probability that it does not

_COUNTED_SAMPLE = 32  # chunks to read back from a relay whose own count is right

_random = random.SystemRandom()  # a relay must not foresee the sample


def sample_size(total: int) -> int:
    """Return how many of `total` chunks to read back, so that a loss of 2 % is found 99 times in 100."""
    lost, unnoticed, size = math.ceil(total * _LOSS), 1.0, 0
    while size < total and unnoticed > _MISS:
        unnoticed *= (total - lost - size) / (total - size)
        size += 1
    return size


class ChunkCheck:
    """Check that relays return the chunks of a release that they accepted.

    What a relay lost is sent again once; a relay that loses chunks twice is dropped.

    Args:
        ids: Ids of the chunks' events, which are the first of the allocation.
        whole: Ask for all of them instead of a sample.
        confirmed: Numbers of the chunks that a relay returned before, by URL.
        on_lost: Called with the URL of a relay that lost chunks.
    """

    def __init__(
        self,
        ids: Sequence[bytes],
        *,
        whole: bool = False,
        confirmed: Mapping[str, AbstractSet[int]],
        on_lost: Callable[[str], None] = lambda _url: None,
    ) -> None:
        self._ids = ids
        self._whole = whole
        self._confirmed = {url: set(numbers) for url, numbers in confirmed.items()}
        self._on_lost = on_lost
        self._lossy: set[str] = set()  # relays that lost chunks once

    async def run(self, pool: Pool, allocation: Allocation) -> bool:
        """Return whether no relay lost a chunk; otherwise the allocation has what to send again."""
        accepted = {url: self._unconfirmed(url, allocation) for url in pool.urls}
        ids = {url: [self._ids[number] for number in numbers] for url, numbers in accepted.items()}
        lost = await _find_lost(pool, ids, whole=self._whole)
        for url, missing in lost.items():
            if url in self._lossy:
                pool.drop(url, f"accepted {len(ids[url]):,} chunks twice and does not return {len(missing):,} of them")
                continue
            self._lossy.add(url)
            self._on_lost(url)
            for number in accepted[url]:
                if self._ids[number] in missing:
                    allocation.mark_lost(url, number)
        for url, numbers in accepted.items():
            returned = {number for number in numbers if self._ids[number] not in lost.get(url, ())}
            self._confirmed.setdefault(url, set()).update(returned)
        return not lost

    def _unconfirmed(self, url: str, allocation: Allocation) -> list[int]:
        stored = allocation.stored_by(url) - self._confirmed.get(url, set())
        return sorted(number for number in stored if number < len(self._ids))


async def _find_lost(pool: Pool, accepted: Mapping[str, Sequence[bytes]], *, whole: bool) -> dict[str, set[bytes]]:
    """Return the events that relays accepted and do not return, by URL; relays that lost none are left out.

    A relay that lacks part of its sample is asked for everything, so that all that it lost can be sent again.

    Args:
        pool: Open pool of relays.
        accepted: Ids of the events that each relay accepted, by URL.
        whole: Ask for all of them instead of a sample.
    """
    counts = {} if whole else await pool.stored_counts(accepted)
    unseen = {url: _sample(ids, counts.get(url), whole=whole) for url, ids in accepted.items()}
    seen: dict[str, set[bytes]] = {url: set() for url in accepted}

    async def ask() -> None:
        for url, found in (await pool.stored_ids({url: sorted(ids) for url, ids in unseen.items()})).items():
            if url in unseen:
                seen[url] |= found
                unseen[url] -= found

    async def complete() -> set[str]:
        await ask()
        return {url for url in pool.urls if not unseen.get(url)}

    if not any(unseen.values()) or not await pool.wait_until_readable(complete):
        return {}
    for url in [url for url, ids in unseen.items() if ids]:
        unseen[url] = set(accepted[url]) - seen[url]
    await ask()
    return {url: ids for url, ids in unseen.items() if ids and url in pool.urls}


def _sample(ids: Sequence[bytes], count: int | None, *, whole: bool) -> set[bytes]:
    """Return the ids of events to read back; `count` is how many of them the relay says to have, if it does say."""
    if whole or (count is not None and count < len(ids)):
        return set(ids)
    size = sample_size(len(ids))
    return set(_random.sample(ids, min(size, _COUNTED_SAMPLE) if count == len(ids) else size))
