"""Reseed use case: send an installed release to relays that lost it or never had it. Needs no secret key.

Reads files, and does network I/O through a pool.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from distribution.chunking import decode
from distribution.confirm import ChunkCheck
from distribution.errors import InvalidChunk, NotPublished
from distribution.events import CHUNK_KIND, Release
from distribution.heads import heads_filter
from distribution.installed import InstalledRelease
from distribution.local_release import LocalChunk, LocalRelease
from distribution.manifest import Manifest
from distribution.store import Store
from relay_client.allocation import Allocation
from relay_client.batches import batched
from relay_client.errors import InvalidEvent
from relay_client.event import Event, HashedEvent
from relay_client.filter import Filter
from relay_client.gather_plan import IDS_PER_REQUEST
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """How much of a release each relay has."""

    total: int  # events of the release, without a head
    held: Mapping[str, int]  # events by URL
    nowhere: int  # events that no relay has
    announced: bool  # whether relays have the manifest and the release


@dataclass(frozen=True, slots=True, kw_only=True)
class Reseeded:
    """Result of a reseed."""

    total: int  # events of the release, without a head
    copies: int  # chunks sent without their author's signature
    missing: int  # chunks that are not installed, as with the weights only
    relays: Mapping[str, RelayReport]
    head: bool  # whether a head that names the release was sent too


class Reseeder:
    """Sends one installed release to the relays of an open pool.

    Args:
        pool: Open pool of relays to send to.
        store: Store with the release.
        installed: The release.
        now: Seconds since 1970.
        on_progress: Called with the bytes sent so far and the total.

    Raises:
        CallerError: The author revoked the release.
        StoreError: The store lacks events of the release, or is damaged.
    """

    def __init__(
        self,
        pool: Pool,
        store: Store,
        installed: InstalledRelease,
        *,
        now: int,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._pool = pool
        self._installed = installed
        self._on_progress = on_progress
        self._local = LocalRelease(store, installed, now=now)

    @property
    def release(self) -> Release:
        """The release, as its author signed it."""
        return self._local.release

    @property
    def manifest(self) -> Manifest:
        """The manifest, as its author published it."""
        return self._local.manifest

    async def availability(self) -> Availability:
        """Ask every relay which events of the release it has."""
        ids = list(dict.fromkeys(chunk.event_id for _, chunk in self._local.chunks()))
        ids += [event.id for event in self._local.announcement]
        held = await self._pool.stored_ids(ids)
        found = {url: len(events) for url, events in held.items()}
        nowhere = set(ids).difference(*held.values())
        announced = nowhere.isdisjoint(event.id for event in self._local.announcement)
        return Availability(total=len(ids), held=found, nowhere=len(nowhere), announced=announced)

    async def reseed(self) -> Reseeded:
        """Send each relay the events that it lacks, the release event last, and read back a sample of the chunks.

        Raises:
            NotPublished: No relay accepted all of it.
            StoreError: A file is damaged.
            OSError: A file cannot be read.
        """
        chunks, missing = await asyncio.to_thread(self._local.plan)
        parts: list[LocalChunk | Event] = [*chunks, *self._local.announcement]
        held = await self._pool.stored_ids([part.id for part in parts])
        copied = {local.chunk.sha256 for local in chunks if local.sig is None}
        copies = await self._copies(copied)
        have = {url: {n for n, part in enumerate(parts) if part.id in held[url]} for url in held}
        for url, numbers in have.items():
            numbers |= {n for n, local in enumerate(chunks) if local.sig is None and local.chunk.sha256 in copies[url]}
            self._pool.note_duplicates(url, len(numbers))
        await self._deliver(parts, have)
        if not self._pool.urls:
            raise NotPublished(f"no relay accepted the whole release: {self._pool.failure_summary()}")
        head = await self._send_head()
        return Reseeded(
            total=len(parts) + missing, copies=len(copied), missing=missing, relays=self._pool.reports, head=head
        )

    async def _deliver(self, parts: Sequence[LocalChunk | Event], have: Mapping[str, set[int]]) -> None:
        sizes = {n: part.chunk.size for n, part in enumerate(parts) if isinstance(part, LocalChunk)}
        total, left = sum(sizes.values()), dict(sizes)

        def event(number: int) -> Event:
            part = parts[number]
            return part if isinstance(part, Event) else self._local.event(part)

        def taken(_url: str, number: int) -> None:
            left.pop(number, None)
            self._on_progress(total - sum(left.values()), total)

        allocation = Allocation(list(have), [len(have)] * len(parts), stored=have, barrier=len(sizes))
        chunks = [part for part in parts if isinstance(part, LocalChunk)]
        check = ChunkCheck(await asyncio.to_thread(self._sent_ids, chunks), confirmed=have)
        while True:
            await self._pool.send(allocation, event, taken)
            if await check.run(self._pool, allocation) or not self._pool.urls:
                return

    def _sent_ids(self, chunks: Sequence[LocalChunk]) -> list[bytes]:
        """Return the ids of the events by which chunks are sent."""
        return [local.id if local.sig else self._local.event(local).id for local in chunks]

    async def _copies(self, hashes: Collection[bytes]) -> dict[str, set[bytes]]:
        """Return which of these hashes each relay has as a chunk of any author, by URL."""
        found: dict[str, set[bytes]] = {url: set() for url in self._pool.urls}
        for batch in batched(sorted(hashes), IDS_PER_REQUEST):
            values = tuple(digest.hex() for digest in batch)
            asked = Filter(kinds=(CHUNK_KIND,), tags={"x": values}, limit=2 * len(batch))
            for url, raw_event in await self._pool.query(asked):
                with contextlib.suppress(InvalidEvent, InvalidChunk):
                    found[url].add(hashlib.sha256(decode(HashedEvent.parse(raw_event).content)).digest())
        return found

    async def _send_head(self) -> bool:
        """Send the archived head to relays without one for this name; return False if none is archived."""
        head = self._local.head()
        if head is None:
            return False
        asked = heads_filter(self._installed.author, self._installed.name)
        having = {url for url, _ in await self._pool.query(asked)}
        await self._pool.publish([(head, [url for url in self._pool.urls if url not in having])])
        return True
