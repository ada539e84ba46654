"""The files of a release: missing chunks from the relays → each verified → whole files verified → blobs.

What an earlier run left is used again, where it hashes right. Does network I/O through a pool and disk I/O through the
store.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from distribution.assembler import Assembler, Placement
from distribution.errors import ChunksMissing, InvalidChunk
from distribution.event_archive import SignatureLog
from distribution.events import CHUNK_KIND, Release
from distribution.gc import make_room
from distribution.installed import InstalledRelease, OriginalFile
from distribution.manifest import FileEntry, Manifest
from distribution.partial import HeaderRewrite, PartialFile
from distribution.store import Store
from relay_client import gather
from relay_client.errors import InvalidEvent
from relay_client.pool import Pool

_ADVANCE_BYTES = 8 << 20  # of verified bytes between two times that they are hashed on and given to the disk

OnProgress = Callable[[int, int], None]  # verified bytes so far, bytes in all; never goes back


@dataclass(slots=True)
class ChunkCounts:
    """Where the chunks of a release came from."""

    fetched: int = 0
    reused: int = 0  # in the store already
    rejected: int = 0  # came and did not verify
    relays: dict[str, int] = field(default_factory=dict)  # relay -> events taken from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One download into the store, of a release whose lock is held."""

    pool: Pool
    store: Store
    release: Release
    manifest: Manifest  # what is to be had of the release
    rewrite: HeaderRewrite | None  # for the checkpoint, where only its beginning is wanted
    counts: ChunkCounts
    on_progress: OnProgress

    async def run(self, found: InstalledRelease | None) -> InstalledRelease:
        """Install the release; `found` is what is installed of it so far. Raises as `Fetcher.fetch` does."""
        wanted = {file.sha256: file for file in self.manifest.files}
        for sha256, file in list(wanted.items()):
            if not self._rewrites(file) and await asyncio.to_thread(self.store.has_blob, sha256):
                self.counts.reused += wanted.pop(sha256).chunk_count
        blobs: dict[bytes, bytes] = {}
        original = None
        with ExitStack() as stack:
            partials = {sha: stack.enter_context(self.store.partial(self.release.id, wanted[sha])) for sha in wanted}
            self.store.check_space(sum(max(0, file.size - partials[sha].allocated) for sha, file in wanted.items()))
            await make_room(self.store, self.release.id, {file.sha256 for file in self.manifest.files} - wanted.keys())
            signatures = stack.enter_context(self.store.event_archive.log(self.release.id))
            filling = _Filling(self, list(wanted.values()), partials, signatures)
            await asyncio.to_thread(filling.adopt, found)
            await filling.run()
            for sha256, file in wanted.items():
                rewrite = self.rewrite if self._rewrites(file) else None
                if rewrite:
                    original = OriginalFile(sha256=sha256, start=partials[sha256].read(0, rewrite.size))
                blobs[sha256] = await asyncio.to_thread(self.store.keep, partials[sha256], file, rewrite)
        files = tuple(replace(file, sha256=blobs.get(file.sha256, file.sha256)) for file in self.manifest.files)
        return await asyncio.to_thread(self.store.install, self.release, replace(self.manifest, files=files), original)

    def _rewrites(self, file: FileEntry) -> bool:
        return self.rewrite is not None and file.role == "checkpoint"


class _Filling:
    """Fills part files with verified chunks."""

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
        self._advanced = 0  # what _done was when the largest file was last advanced
        self._advancing: asyncio.Task[None] | None = None
        self._refusals: dict[str, str] = {}  # event id in hex -> what was wrong with what came for it

    def adopt(self, found: InstalledRelease | None) -> None:
        """Take what is here already, where it hashes right: of an earlier run, or of an installation in part."""
        part = next((file for file in found.files if file.original), None) if found else None
        for file in self._files:
            if part and part.original and file.role == part.role:
                self._partials[file.sha256].copy(part.local_path, start=part.original.start)
            partial = self._partials[file.sha256]
            for chunk in file.chunks(self._download.manifest.chunk_size):
                if partial.is_hole(chunk.offset, chunk.size):
                    continue
                if hashlib.sha256(partial.read(chunk.offset, chunk.size)).digest() == chunk.sha256:
                    self._assembler.have(chunk, file)
                    self._counts.reused += 1
                    self._done += chunk.size

    async def run(self) -> None:
        """Ask for what is missing, then for copies of what did not come; raises InvalidChunk or ChunksMissing."""
        self._report()
        pool, assembler = self._download.pool, self._assembler
        try:
            if await pool.gather(assembler.missing, self._offer):
                await pool.gather(assembler.missing_hashes, self._offer_copy, gather.by_hash(CHUNK_KIND))
        finally:
            if self._advancing:
                await asyncio.wait({self._advancing})
        if self._advancing:
            self._advancing.result()
        if missing := assembler.missing_places:
            self._give_up(missing)

    def _give_up(self, missing: int) -> None:
        pool = self._download.pool
        total = sum(file.chunk_count for file in self._download.manifest.files)
        words = f"{missing:,} of {total:,} chunks"
        for event_id in self._assembler.missing:
            if refusal := self._refusals.get(event_id.hex()):
                raise InvalidChunk(f"{words} did not verify or are missing: {refusal}")
        reasons = f" ({pool.failures()})" if pool.failures() else ""
        raise ChunksMissing(f"{words} missing on {', '.join(pool.reports)}; run it again later{reasons}")

    def _offer(self, url: str, raw_event: Mapping[str, object]) -> bool:
        try:
            data, places = self._assembler.offer(raw_event)
        except (InvalidEvent, InvalidChunk) as error:
            self._counts.rejected += 1
            self._refusals[str(raw_event["id"])] = f"{url}: {error}"
            return False
        if places:
            self._signatures.add(raw_event)
        self._write(url, data, places)
        return True

    def _offer_copy(self, url: str, raw_event: Mapping[str, object]) -> bool:
        try:
            data, places = self._assembler.offer_copy(raw_event)
        except (InvalidEvent, InvalidChunk):  # some stranger's fault, not the relay's, and not the author's
            self._counts.rejected += 1
            return False
        self._write(url, data, places)
        return True

    def _write(self, url: str, data: bytes, places: Sequence[Placement]) -> None:
        for place in places:
            self._partials[place.file.sha256].write(place.offset, data)
            self._done += len(data)
            self._counts.fetched += 1
        self._counts.relays[url] = self._counts.relays.get(url, 0) + 1
        self._report()
        self._advance()

    def _advance(self) -> None:
        """Now and then, have the largest file hashed and written out as far as it is complete, on a thread."""
        if self._done < self._advanced + _ADVANCE_BYTES or (self._advancing and not self._advancing.done()):
            return
        if self._advancing:
            self._advancing.result()  # a disk that failed
        self._advanced = self._done
        file = max(self._files, key=lambda file: file.size)
        end, partial = self._assembler.complete_to(file), self._partials[file.sha256]
        self._advancing = asyncio.ensure_future(asyncio.to_thread(partial.advance, end))

    def _report(self) -> None:
        self._download.on_progress(self._done, self._download.manifest.size)
