"""Send an installed release again, to relays that lost it or never had it. Anybody may, and needs no secret for it.

The author's own events are made again from the files and from what `archive` keeps. A chunk whose signature is not
known here goes as a copy under a key of the moment, and readers find it by its hash. Reads files, and does network I/O
through a pool.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from distribution.chunking import decode
from distribution.errors import CallerError, InvalidChunk, InvalidRelease, NotPublished, StoreError
from distribution.events import CHUNK_KIND, Release, chunk_draft, heads_filter
from distribution.installed import InstalledFile, InstalledRelease
from distribution.manifest import RESERVED, Chunk, Manifest
from distribution.store import Store
from relay_client.allocation import Allocation
from relay_client.errors import InvalidEvent
from relay_client.event import Event, HashedEvent
from relay_client.filter import Filter
from relay_client.gather_plan import IDS_PER_REQUEST
from relay_client.keys import SecretKey
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Which relays hold how much of a release."""

    total: int  # its events, without a head
    held: Mapping[str, int]  # by relay
    nowhere: int  # events that no relay gave out


@dataclass(frozen=True, slots=True, kw_only=True)
class Reseeded:
    """What a reseed ended with."""

    total: int  # events of the release, without a head
    copies: int  # chunks that are not under their author's signature
    missing: int  # chunks that are not here, as of a release with the weights alone
    relays: Mapping[str, RelayReport]
    head: bool  # whether the name leads there too


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seed:
    """A chunk that is here, and how it goes."""

    file: InstalledFile
    chunk: Chunk
    sig: bytes | None  # the author's; None: as a copy

    @property
    def id(self) -> bytes:
        """The id of its event, as the manifest has it."""
        return self.chunk.event_id

    def read(self) -> bytes:
        """Its bytes, as their author signed them; raises StoreError if they are not that any more, and OSError."""
        with self.file.local_path.open("rb") as file:
            file.seek(self.chunk.offset)
            data = file.read(self.chunk.size)
        if self.file.original and self.chunk.offset == 0:
            data = self.file.original.start + data[len(self.file.original.start) :]
        if hashlib.sha256(data).digest() != self.chunk.sha256:
            raise StoreError(f"{self.file.local_path}: damaged (randygpt verify)")
        return data


class Reseeder:
    """Sends one installed release to the relays of a pool. Raises StoreError if what is here of it is not enough."""

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
        self._archive = store.event_archive
        self._now = now
        self._on_progress = on_progress
        self._release = _read_release(installed, now)
        self._announcement = [*self._archive.manifest(installed.id), self._release.event]
        self._manifest = _read_manifest(self._release, self._announcement[:-1])
        self._copier = SecretKey.generate()
        if installed.id in store.seen_versions.seen(installed.author, installed.name).revoked:
            raise CallerError("the author of this release took it back")

    async def holdings(self) -> Availability:
        """Ask every relay which of the release's events it gives out."""
        ids = list(dict.fromkeys(chunk.event_id for _, chunk in self._chunks()))
        ids += [event.id for event in self._announcement]
        held = await self._pool.stored_ids(ids)
        found = {url: len(events) for url, events in held.items()}
        return Availability(total=len(ids), held=found, nowhere=len(set(ids).difference(*held.values())))

    async def reseed(self) -> Reseeded:
        """Send each relay what it does not give out, the release last; raises NotPublished if none took all of it."""
        seeds, missing = await asyncio.to_thread(self._plan)
        parts: list[_Seed | Event] = [*seeds, *self._announcement]
        held = await self._pool.stored_ids([part.id for part in parts])
        copied = {seed.chunk.sha256 for seed in seeds if seed.sig is None}
        copies = await self._copies(copied)
        have = {url: {n for n, part in enumerate(parts) if part.id in held[url]} for url in held}
        for url, numbers in have.items():
            numbers |= {n for n, seed in enumerate(seeds) if seed.sig is None and seed.chunk.sha256 in copies[url]}
            self._pool.note_duplicates(url, len(numbers))
        await self._deliver(parts, have)
        if not self._pool.urls:
            raise NotPublished(f"no relay took the whole release: {self._pool.failures()}")
        head = await self._send_head()
        return Reseeded(
            total=len(parts) + missing, copies=len(copied), missing=missing, relays=self._pool.reports, head=head
        )

    async def _deliver(self, parts: Sequence[_Seed | Event], have: Mapping[str, set[int]]) -> None:
        sizes = {n: part.chunk.size for n, part in enumerate(parts) if isinstance(part, _Seed)}
        total, left = sum(sizes.values()), dict(sizes)

        def event(number: int) -> Event:
            part = parts[number]
            return part if isinstance(part, Event) else self._event(part)

        def taken(_url: str, number: int) -> None:
            left.pop(number, None)
            self._on_progress(total - sum(left.values()), total)

        await self._pool.send(
            Allocation(list(have), [len(have)] * len(parts), stored=have, barrier=len(sizes)), event, taken
        )

    def _chunks(self) -> Iterator[tuple[InstalledFile | None, Chunk]]:
        """Every chunk that the manifest names, and the file here that it belongs to."""
        local = {file.path: file for file in self._installed.files}
        for entry in self._manifest.files:
            for chunk in entry.chunks(self._manifest.chunk_size):
                yield local.get(entry.path), chunk

    def _plan(self) -> tuple[list[_Seed], int]:
        """Each chunk once, checked against the manifest, and how many are not here."""
        signatures = self._archive.signatures(self._installed.id)
        seeds: dict[bytes, _Seed] = {}
        missing = set()
        for file, chunk in self._chunks():
            if chunk.event_id in seeds:
                continue
            if file is None or chunk.offset + chunk.size > file.size:
                missing.add(chunk.event_id)
                continue
            seed = _Seed(file=file, chunk=chunk, sig=signatures.get(chunk.event_id))
            try:
                self._event(seed)
            except InvalidEvent:  # a signature that does not hold, or an event made in another way than ours are
                seed = replace(seed, sig=None)
            seeds[chunk.event_id] = seed
        return list(seeds.values()), len(missing - seeds.keys())

    def _event(self, seed: _Seed) -> Event:
        """The event of a chunk; raises InvalidEvent if it is not the one that the manifest names."""
        expires = self._release.event.tag_values("expiration")
        draft = chunk_draft(
            seed.read(),
            sha256=seed.chunk.sha256,
            created_at=self._release.created_at if seed.sig else self._now,
            expires=int(expires[0]) if expires and expires[0].isdecimal() else None,
        )
        if seed.sig is None:
            return draft.sign(self._copier)
        return Event(
            id=seed.id,
            pubkey=self._release.author,
            created_at=draft.created_at,
            kind=draft.kind,
            tags=draft.tags,
            content=draft.content,
            sig=seed.sig,
        )

    async def _copies(self, hashes: Collection[bytes]) -> dict[str, set[bytes]]:
        """Which of these bytes each relay gives out, under whatever signature."""
        found: dict[str, set[bytes]] = {url: set() for url in self._pool.urls}
        wanted = sorted(hashes)
        for start in range(0, len(wanted), IDS_PER_REQUEST):
            batch = tuple(digest.hex() for digest in wanted[start : start + IDS_PER_REQUEST])
            asked = Filter(kinds=(CHUNK_KIND,), tags={"x": batch}, limit=2 * len(batch))
            for url, raw_event in await self._pool.query(asked):
                with contextlib.suppress(InvalidEvent, InvalidChunk):
                    found[url].add(hashlib.sha256(decode(HashedEvent.parse(raw_event).content)).digest())
        return found

    async def _send_head(self) -> bool:
        """Bring the head to relays that have none of this name; False if it is not here."""
        head = self._archive.head(self._installed.id)
        if head is None:
            return False
        asked = heads_filter(self._installed.author, self._installed.name)
        having = {url for url, _ in await self._pool.query(asked)}
        await self._pool.publish([(head, [url for url in self._pool.urls if url not in having])])
        return True


def _read_release(installed: InstalledRelease, now: int) -> Release:
    path = installed.folder / RESERVED
    try:
        return Release.parse(Event.parse(orjson.loads(path.read_bytes())["event"]), now=now)
    except (orjson.JSONDecodeError, KeyError, InvalidEvent, InvalidRelease) as error:
        raise StoreError(f"{path}: damaged ({error!r})") from None


def _read_manifest(release: Release, events: Sequence[Event]) -> Manifest:
    encoded = b"".join(decode(event.content) for event in events)
    if hashlib.sha256(encoded).digest() != release.manifest_sha256:
        raise StoreError("the events of this release are not here any more: fetch it again")
    return Manifest.decode(encoded)
