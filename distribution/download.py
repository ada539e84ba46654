"""Download of a release's files: missing chunks → each verified → whole files verified → blobs.

Chunks come from Blossom servers where some are known, and from relays. Those that an earlier run left on disk are
reused if they hash right. Does network I/O through a pool and clients of servers, and disk I/O through the store.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from distribution.assembler import Assembler, Placement
from distribution.errors import ChunksMissing, InvalidChunk
from distribution.event_archive import SignatureLog
from distribution.events import CHUNK_KIND, Release
from distribution.gc import make_room
from distribution.installed import InstalledRelease, OriginalFile
from distribution.manifest import Blob, FileEntry, Manifest
from distribution.partial import HeaderRewrite, PartialFile
from distribution.range_plan import WantedChunk
from distribution.server_fetch import RelaySource, ServerFetch
from distribution.store import Store
from relay_client import gather
from relay_client.errors import InvalidEvent
from relay_client.event import claimed_id
from relay_client.event_source import EventSource
from relay_client.gather_plan import IDS_PER_REQUEST

if TYPE_CHECKING:  # it imports an HTTP client
    from relay_client.blossom.client import BlossomClient

_ADVANCE_BYTES = 8 << 20  # of verified bytes between two calls of PartialFile.advance

OnProgress = Callable[[int, int], None]  # verified bytes so far, total bytes; never decreases


def no_progress(_done: int, _total: int) -> None:
    """Show no progress."""


@dataclass(slots=True)
class ServerCounts:
    """What one Blossom server sent."""

    bytes: int = 0  # of chunks that verified
    rejected: int = 0  # chunks that did not


@dataclass(slots=True)
class ChunkCounts:
    """Counts of the chunks of a release, by origin."""

    fetched: int = 0
    reused: int = 0  # already in the store
    rejected: int = 0  # received, and did not verify
    relays: dict[str, int] = field(default_factory=dict)  # relay -> events taken from it
    servers: dict[str, ServerCounts] = field(default_factory=dict)  # by origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Download of one release into the store. The caller holds the lock of the release."""

    pool: EventSource
    store: Store
    release: Release
    manifest: Manifest  # of the whole release, or of the part that is wanted
    blobs: Mapping[str, Sequence[Blob]]  # blobs of each file of the release, by path
    servers: "Mapping[str, BlossomClient]"  # by origin
    rewrite: HeaderRewrite | None  # for the checkpoint, where only its first segment is wanted
    counts: ChunkCounts
    on_progress: OnProgress

    async def run(self, found: InstalledRelease | None) -> InstalledRelease:
        """Download what is missing, and install the release.

        Args:
            found: The release as it is installed so far, damaged or with the weights only.

        Raises:
            PeerError, TransportError, StoreError, OSError: as `Fetcher.fetch`.
        """
        wanted = {file.sha256: file for file in self.manifest.files}
        for sha256, file in list(wanted.items()):
            if not self._rewrites(file) and await asyncio.to_thread(self.store.has_blob, sha256):
                self.counts.reused += wanted.pop(sha256).chunk_count
        blobs: dict[bytes, bytes] = {}
        original = None
        with ExitStack() as stack:
            partials = {sha: stack.enter_context(self.store.partial(self.release.id, wanted[sha])) for sha in wanted}
            self.store.check_space(
                sum(max(0, file.size - partials[sha].allocated_size) for sha, file in wanted.items())
            )
            await make_room(self.store, self.release.id, {file.sha256 for file in self.manifest.files} - wanted.keys())
            signatures = stack.enter_context(self.store.event_archive.log(self.release.id))
            writer = _ChunkWriter(self, list(wanted.values()), partials, signatures)
            await asyncio.to_thread(writer.reuse, found)
            await writer.run()
            for sha256, file in wanted.items():
                rewrite = self.rewrite if self._rewrites(file) else None
                if rewrite:
                    original = OriginalFile(sha256=sha256, start=partials[sha256].read(0, rewrite.size))
                blobs[sha256] = await asyncio.to_thread(self.store.add_blob, partials[sha256], rewrite)
        for file in self.manifest.files:
            if wanted.get(file.sha256) is not file and not self._rewrites(file):  # stored before
                await asyncio.to_thread(self.store.check_segments, file)
        files = tuple(replace(file, sha256=blobs.get(file.sha256, file.sha256)) for file in self.manifest.files)
        return await asyncio.to_thread(self.store.install, self.release, replace(self.manifest, files=files), original)

    def _rewrites(self, file: FileEntry) -> bool:
        return self.rewrite is not None and file.role == "checkpoint"


class _ChunkWriter:
    """Writes verified chunks into part files."""

    def __init__(
        self,
        download: Download,
        files: Sequence[FileEntry],
        partials: Mapping[bytes, PartialFile],
        signatures: SignatureLog,
    ) -> None:
        self._download = download
        self._signatures = signatures
        self._counts = download.counts
        self._files = files
        self._partials = partials
        self._assembler = Assembler(files, download.manifest.chunk_size)
        self._done = download.manifest.size - sum(file.size for file in files)  # verified bytes
        self._advanced = 0  # value of _done when the largest file was last advanced
        self._advancing: asyncio.Task[None] | None = None
        self._refusals: dict[str, str] = {}  # event id in hex -> why the last answer was rejected
        self._server_failures: Mapping[str, str] = {}  # by origin

    def reuse(self, found: InstalledRelease | None) -> None:
        """Mark the chunks on disk that hash right as present: of an earlier run, or of a weights-only installation."""
        part = next((file for file in found.files if file.original), None) if found else None
        for file in self._files:
            if part and part.original and file.role == part.role:
                self._partials[file.sha256].copy_from(part.local_path, start=part.original.start)
            partial = self._partials[file.sha256]
            for chunk in file.chunks(self._download.manifest.chunk_size):
                if partial.is_hole(chunk.offset, chunk.size):
                    continue
                if hashlib.sha256(partial.read(chunk.offset, chunk.size)).digest() == chunk.sha256:
                    self._assembler.mark_present(chunk, file)
                    self._counts.reused += 1
                    self._done += chunk.size

    async def run(self) -> None:
        """Gather the missing chunks by id, then the rest by hash; raises InvalidChunk or ChunksMissing."""
        self._report()
        pool = self._download.pool
        try:
            if self._download.servers:
                await self._fetch_from_servers()
            if self._assembler.missing_places and await self._gather(patient=False) and pool.owes_answers:
                await self._gather(patient=True)
        finally:
            if self._advancing:
                await asyncio.wait({self._advancing})
        if self._advancing:
            self._advancing.result()
        if missing := self._assembler.missing_places:
            self._give_up(missing)

    async def _fetch_from_servers(self) -> None:
        """Fetch from servers and relays at once, until neither has more; raises InvalidManifest."""
        pool, download = self._download.pool, self._download
        counts = download.counts.servers
        counts |= {origin: ServerCounts() for origin in download.servers if origin not in counts}
        relays = RelaySource(
            gather=lambda ids: pool.gather(ids, self._offer, patient=False),
            chunks_per_request=gather.REQUESTS_PER_RELAY * IDS_PER_REQUEST * max(1, len(pool.urls)),
        )
        fetch = ServerFetch(
            download.servers,
            self._wanted_chunks(),
            is_missing=self._assembler.is_missing,
            accept=self._offer_bytes,
            relays=relays,
            timeouts=pool.timeouts,
        )
        await fetch.run()
        self._server_failures = fetch.failures
        if self._assembler.missing_places:
            await fetch.check_manifest()

    def _wanted_chunks(self) -> Iterator[WantedChunk]:
        number = 0
        for file in self._files:
            blobs = iter(self._download.blobs[file.path])
            blob = next(blobs)
            for chunk in file.chunks(self._download.manifest.chunk_size):
                while chunk.offset >= blob.end:
                    blob = next(blobs)
                number += 1
                if self._assembler.is_missing(chunk.event_id):
                    yield WantedChunk(
                        number=number,
                        event_id=chunk.event_id,
                        blob=blob,
                        offset=chunk.offset - blob.offset,
                        size=chunk.size,
                    )

    def _offer_bytes(self, origin: str, chunk: WantedChunk, data: bytes) -> bool:
        counts = self._counts.servers[origin]
        try:
            places = self._assembler.offer_bytes(chunk.event_id, data)
        except InvalidChunk:
            counts.rejected += 1
            self._counts.rejected += 1
            return False
        counts.bytes += len(data)
        self._place(data, places)
        return True

    async def _gather(self, *, patient: bool) -> int:
        """Gather by id, then by hash; return the number of chunks that are still missing."""
        pool, assembler = self._download.pool, self._assembler
        if await pool.gather(assembler.missing, self._offer, patient=patient):
            by_hash = gather.by_hash(CHUNK_KIND)
            await pool.gather(assembler.missing_hashes, self._offer_copy, by_hash, patient=patient)
        return assembler.missing_places

    def _give_up(self, missing: int) -> None:
        pool = self._download.pool
        total = sum(file.chunk_count for file in self._download.manifest.files)
        count = f"{missing:,} of {total:,} chunks"
        for event_id in self._assembler.missing:
            if refusal := self._refusals.get(event_id.hex()):
                raise InvalidChunk(f"{count} are missing or did not verify: {refusal}")
        summary = "; ".join(filter(None, [*self._server_failures.values(), pool.failure_summary()]))
        where = ", ".join([*self._download.servers, *pool.reports])
        raise ChunksMissing(f"{count} missing on {where}; {pool.advice}{f' ({summary})' if summary else ''}")

    def _offer(self, url: str, raw_event: Mapping[str, object]) -> bool:
        try:
            data, places = self._assembler.offer(raw_event)
        except (InvalidEvent, InvalidChunk) as error:
            self._counts.rejected += 1
            self._refusals[claimed_id(raw_event)] = f"{url}: {error}"
            return False
        if places:
            self._signatures.add(raw_event)
        self._write(url, data, places)
        return True

    def _offer_copy(self, url: str, raw_event: Mapping[str, object]) -> bool:
        try:
            data, places = self._assembler.offer_copy(raw_event)
        except (InvalidEvent, InvalidChunk):  # the fault of the copy's signer, not of the relay or the author
            self._counts.rejected += 1
            return False
        self._write(url, data, places)
        return True

    def _write(self, url: str, data: bytes, places: Sequence[Placement]) -> None:
        self._place(data, places)
        self._counts.relays[url] = self._counts.relays.get(url, 0) + 1

    def _place(self, data: bytes, places: Sequence[Placement]) -> None:
        for place in places:
            self._partials[place.file.sha256].write(place.offset, data)
            self._done += len(data)
            self._counts.fetched += 1
        self._report()
        self._advance()

    def _advance(self) -> None:
        """Hash and fsync the largest file up to its first gap, on a thread, once enough bytes were added."""
        if self._done < self._advanced + _ADVANCE_BYTES or (self._advancing and not self._advancing.done()):
            return
        if self._advancing:
            self._advancing.result()  # raises if the disk failed
        self._advanced = self._done
        file = max(self._files, key=lambda file: file.size)
        end, partial = self._assembler.contiguous_size(file), self._partials[file.sha256]
        self._advancing = asyncio.ensure_future(asyncio.to_thread(partial.advance, end))

    def _report(self) -> None:
        self._download.on_progress(self._done, self._download.manifest.size)
