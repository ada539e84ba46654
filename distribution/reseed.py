"""Reseed use case: send an installed release to relays that lost it or never had it. Needs no secret key.

The author's events are rebuilt from the files and the event archive. A chunk whose signature is unknown is sent as a
copy under a throw-away key, and readers find it by its hash. Reads files, and does network I/O through a pool.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from distribution.chunking import decode
from distribution.confirm import ChunkCheck
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _LocalChunk:
    """A local chunk, and whether it is sent under its author's signature or as a copy."""

    file: InstalledFile
    chunk: Chunk
    sig: bytes | None  # the author's; None: send a copy

    @property
    def id(self) -> bytes:
        """Id of its event, from the manifest."""
        return self.chunk.event_id

    def read(self) -> bytes:
        """Return its bytes as the author published them; raises StoreError if they are damaged, and OSError."""
        with self.file.local_path.open("rb") as file:
            file.seek(self.chunk.offset)
            data = file.read(self.chunk.size)
        if self.file.original and self.chunk.offset == 0:
            data = self.file.original.start + data[len(self.file.original.start) :]
        if hashlib.sha256(data).digest() != self.chunk.sha256:
            raise StoreError(f"{self.file.local_path}: damaged; fetch the release again")
        return data


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
        self._archive = store.event_archive
        self._now = now
        self._on_progress = on_progress
        self._release = read_release(installed, now)
        self._announcement = [*self._archive.manifest(installed.id), self._release.event]
        self._manifest = read_manifest(store, self._release)
        self._copier = SecretKey.generate()
        check_not_revoked(store, installed)

    @property
    def release(self) -> Release:
        """The release, as its author signed it."""
        return self._release

    @property
    def manifest(self) -> Manifest:
        """The manifest, as its author published it."""
        return self._manifest

    async def availability(self) -> Availability:
        """Ask every relay which events of the release it has."""
        ids = list(dict.fromkeys(chunk.event_id for _, chunk in self._chunks()))
        ids += [event.id for event in self._announcement]
        held = await self._pool.stored_ids(ids)
        found = {url: len(events) for url, events in held.items()}
        nowhere = set(ids).difference(*held.values())
        announced = nowhere.isdisjoint(event.id for event in self._announcement)
        return Availability(total=len(ids), held=found, nowhere=len(nowhere), announced=announced)

    async def reseed(self) -> Reseeded:
        """Send each relay the events that it lacks, the release event last, and read back a sample of the chunks.

        Raises:
            NotPublished: No relay accepted all of it.
            StoreError: A file is damaged.
            OSError: A file cannot be read.
        """
        chunks, missing = await asyncio.to_thread(self._plan)
        parts: list[_LocalChunk | Event] = [*chunks, *self._announcement]
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

    async def _deliver(self, parts: Sequence[_LocalChunk | Event], have: Mapping[str, set[int]]) -> None:
        sizes = {n: part.chunk.size for n, part in enumerate(parts) if isinstance(part, _LocalChunk)}
        total, left = sum(sizes.values()), dict(sizes)

        def event(number: int) -> Event:
            part = parts[number]
            return part if isinstance(part, Event) else self._event(part)

        def taken(_url: str, number: int) -> None:
            left.pop(number, None)
            self._on_progress(total - sum(left.values()), total)

        allocation = Allocation(list(have), [len(have)] * len(parts), stored=have, barrier=len(sizes))
        chunks = [part for part in parts if isinstance(part, _LocalChunk)]
        check = ChunkCheck(await asyncio.to_thread(self._sent_ids, chunks), confirmed=have)
        while True:
            await self._pool.send(allocation, event, taken)
            if await check.run(self._pool, allocation) or not self._pool.urls:
                return

    def _chunks(self) -> Iterator[tuple[InstalledFile | None, Chunk]]:
        """Yield every chunk of the manifest, and the installed file that it belongs to."""
        local = {file.path: file for file in self._installed.files}
        for entry in self._manifest.files:
            for chunk in entry.chunks(self._manifest.chunk_size):
                yield local.get(entry.path), chunk

    def _plan(self) -> tuple[list[_LocalChunk], int]:
        """Return each local chunk once, verified against the manifest, and the number of chunks that are not local."""
        signatures = self._archive.signatures(self._installed.id)
        chunks: dict[bytes, _LocalChunk] = {}
        missing = set()
        for file, chunk in self._chunks():
            if chunk.event_id in chunks:
                continue
            if file is None or chunk.offset + chunk.size > file.size:
                missing.add(chunk.event_id)
                continue
            local = _LocalChunk(file=file, chunk=chunk, sig=signatures.get(chunk.event_id))
            try:
                self._event(local)
            except InvalidEvent:  # a wrong signature, or an event that another program drafted differently
                local = replace(local, sig=None)
            chunks[chunk.event_id] = local
        return list(chunks.values()), len(missing - chunks.keys())

    def _sent_ids(self, chunks: Sequence[_LocalChunk]) -> list[bytes]:
        """Return the ids of the events by which chunks are sent."""
        return [local.id if local.sig else self._event(local).id for local in chunks]

    def _event(self, local: _LocalChunk) -> Event:
        """Return the event of a chunk; raises InvalidEvent if it is not the one that the manifest names."""
        expires = self._release.event.tag_values("expiration")
        draft = chunk_draft(
            local.read(),
            sha256=local.chunk.sha256,
            created_at=self._release.created_at if local.sig else self._now,
            expires=int(expires[0]) if expires and expires[0].isdecimal() else None,
        )
        if local.sig is None:
            return draft.sign(self._copier)
        return Event(
            id=local.id,
            pubkey=self._release.author,
            created_at=draft.created_at,
            kind=draft.kind,
            tags=draft.tags,
            content=draft.content,
            sig=local.sig,
        )

    async def _copies(self, hashes: Collection[bytes]) -> dict[str, set[bytes]]:
        """Return which of these hashes each relay has as a chunk of any author, by URL."""
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
        """Send the archived head to relays without one for this name; return False if none is archived."""
        head = self._archive.head(self._installed.id)
        if head is None:
            return False
        asked = heads_filter(self._installed.author, self._installed.name)
        having = {url for url, _ in await self._pool.query(asked)}
        await self._pool.publish([(head, [url for url in self._pool.urls if url not in having])])
        return True


def read_release(installed: InstalledRelease, now: int) -> Release:
    """Return the signed release of an installed one; `now` in seconds since 1970. Raises StoreError and OSError."""
    path = installed.folder / RESERVED
    try:
        return Release.parse(Event.parse(orjson.loads(path.read_bytes())["event"]), now=now)
    except (orjson.JSONDecodeError, KeyError, InvalidEvent, InvalidRelease) as error:
        raise StoreError(f"{path}: damaged ({error!r})") from None


def check_not_revoked(store: Store, installed: InstalledRelease) -> None:
    """Raise CallerError if the author revoked a release; also raises StoreError."""
    if installed.id in store.seen_versions.seen(installed.author, installed.name).revoked:
        raise CallerError("the author revoked this release")


def read_manifest(store: Store, release: Release) -> Manifest:
    """Return the manifest of an installed release, as its author published it.

    Raises:
        StoreError: The store has neither its events nor its bytes.
        OSError: A file cannot be read.
    """
    archive = store.event_archive
    for encoded in (
        b"".join(decode(event.content) for event in archive.manifest(release.id)),
        archive.manifest_bytes(release.id) or b"",
    ):
        if hashlib.sha256(encoded).digest() == release.manifest_sha256:
            return Manifest.decode(encoded)
    raise StoreError("the manifest of this release is missing in the store: fetch it again")
