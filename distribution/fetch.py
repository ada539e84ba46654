"""Fetch a release: id → release → trust → manifest → missing chunks → verified files → install → move the ref.

Everything that comes from a relay is unverified until it has passed `Event`, `Release`, `Manifest` or `Assembler`.
Does network I/O through a pool and disk I/O through the store.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from distribution import trust
from distribution.announcement import (
    CHUNK_KIND,
    HEAD_KIND,
    MAX_MANIFEST_SIZE,
    Head,
    Release,
)
from distribution.assembler import Assembler
from distribution.chunking import decode
from distribution.errors import (
    CallerError,
    ChunksMissing,
    InvalidChunk,
    InvalidManifest,
    InvalidRelease,
    NotFound,
)
from distribution.manifest import FileEntry, Manifest, is_name
from distribution.partial import PartialFile
from distribution.revocation import ask_revoked
from distribution.store import InstalledRelease, Store
from distribution.trust import TrustPolicy
from relay_client.errors import InvalidEvent
from relay_client.event import Event
from relay_client.filter import Filter
from relay_client.keys import AddressReference, EventReference, encode_npub
from relay_client.pool import Pool

MAX_SIZE = 1 << 30  # bytes of a release, unless the user says otherwise
_HEADS_PER_RELAY = 10  # an honest relay sends one

OnProgress = Callable[[int, int], None]  # verified bytes so far, bytes in all


@dataclass(slots=True)
class ChunkCounts:
    """Where the chunks of a release came from."""

    fetched: int = 0
    reused: int = 0  # in the store already
    rejected: int = 0  # came and did not verify


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a fetch ended with."""

    release: InstalledRelease
    chunks: ChunkCounts
    activated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Where to fetch from, where to, and under which rules."""

    pool: Pool
    store: Store
    policy: TrustPolicy
    now: Callable[[], int]  # seconds since 1970
    max_size: int = MAX_SIZE  # bytes
    on_progress: OnProgress = lambda _done, _total: None

    async def fetch(self, reference: EventReference | AddressReference, *, activate: bool = True) -> Fetched:
        """Install the release a reference names, and make it current.

        Raises a PeerError for what does not verify or is not trusted, a TransportError for what did not come (a rerun
        goes on from there), StoreError and OSError for the disk. After any of them the store shows what it showed
        before.
        """
        release = await self.find(reference)
        chunks = ChunkCounts()
        async with self.store.lock(release.id):
            installed = self.store.release(release.id)
            intact = installed is not None and await asyncio.to_thread(self.store.is_intact, installed)
            if installed and intact:
                chunks.reused = sum(file.chunks for file in installed.files)
            else:
                installed = await self._download(release, chunks)
            await self.store.versions.record(release)
            if activate:
                await self.store.choose(release.id)
        return Fetched(release=installed, chunks=chunks, activated=activate)

    async def find(self, reference: EventReference | AddressReference) -> Release:
        """The release that a reference names: verified, by an author who is trusted, and no older than it may be.

        Raises what `fetch` raises.
        """
        asked_by_id = isinstance(reference, EventReference)
        if isinstance(reference, EventReference):
            release = await self._by_id(reference.id)
        else:
            release = await self._by_address(reference)
        self.policy.check(release.author)
        seen = self.store.versions.seen(release.author, release.name)
        trust.check_version(release, seen, asked_by_id=asked_by_id)
        return release

    async def _by_address(self, reference: AddressReference) -> Release:
        """The release that the author's latest head names."""
        if reference.kind not in {None, HEAD_KIND}:
            raise CallerError(f"this naddr names an event of kind {reference.kind}, not a model ({HEAD_KIND})")
        if not is_name(reference.name):
            raise CallerError("that is not the name of a model: a-z, 0-9, dot, dash and underscore, at most 64")
        self.policy.check(reference.author)
        who = f"{reference.name!r} by {encode_npub(reference.author)}"
        wanted = Filter(
            authors=(reference.author,), kinds=(HEAD_KIND,), tags={"d": (reference.name,)}, limit=_HEADS_PER_RELAY
        )
        heads: list[Head] = []
        refusals: list[Exception] = []
        for _, raw_event in await self.pool.query(wanted):
            try:
                heads.append(Head.parse(Event.parse(raw_event), now=self.now()))
            except (InvalidEvent, InvalidRelease) as error:
                refusals.append(error)
        own = [head for head in heads if (head.author, head.name) == (reference.author, reference.name)]
        if len(own) < len(heads):
            refusals.append(InvalidRelease("a head of another author or name"))
        revoked = await ask_revoked(self.pool, self.store.versions, reference, own, now=self.now())
        latest = trust.latest(own, revoked)
        if latest is None:
            if refusals:
                raise InvalidRelease(f"no relay has a valid head of {who}: {refusals[0]}")
            if own:
                raise NotFound(f"the author took back what the relays have of {who}")
            raise NotFound(f"no relay knows a model {who}{self._because()}")
        release = await self._by_id(latest.release_id)
        if not latest.names(release):
            raise InvalidRelease(f"the latest head of {who} names a release that does not agree with it")
        return release

    async def _by_id(self, release_id: bytes) -> Release:
        event = (await self._events([release_id], "release"))[release_id]
        return Release.parse(event, now=self.now())

    async def _events(self, ids: Sequence[bytes], what: str) -> dict[bytes, Event]:
        """Verified events by id; raises NotFound, or InvalidRelease where something came in their place."""
        found: dict[bytes, Event] = {}
        refusals: list[InvalidEvent] = []

        def offer(url: str, raw_event: Mapping[str, object]) -> bool:
            try:
                event = Event.parse(raw_event)
            except InvalidEvent as error:
                refusals.append(InvalidEvent(f"{url}: {error}"))
                return False
            found[event.id] = event
            return True

        await self.pool.collect(ids, offer)
        missing = [event_id for event_id in ids if event_id not in found]
        if missing and refusals:
            raise InvalidRelease(f"the {what} that came does not verify: {refusals[0]}")
        if missing:
            raise NotFound(f"no relay has the {what}: {missing[0].hex()}{self._because()}")
        return found

    async def _manifest(self, release: Release) -> Manifest:
        events = await self._events(release.manifest_ids, "manifest")
        digest, parts, size = hashlib.sha256(), [], 0
        for event_id in release.manifest_ids:
            event = events[event_id]
            if event.kind != CHUNK_KIND or event.pubkey != release.author:
                raise InvalidManifest("a part of the manifest is not a chunk by the release's author")
            try:
                part = decode(event.content)
            except InvalidChunk as error:
                raise InvalidManifest(f"a part of the manifest: {error}") from None
            size += len(part)
            if size > MAX_MANIFEST_SIZE:
                raise InvalidManifest(f"the manifest has over {MAX_MANIFEST_SIZE} bytes")
            digest.update(part)
            parts.append(part)
        if digest.digest() != release.manifest_sha256:
            raise InvalidManifest("the manifest is not the one that the release names")
        manifest = Manifest.decode(b"".join(parts))
        if manifest.size != release.size:
            raise InvalidManifest("the files do not add up to the size that the release names")
        return manifest

    async def _download(self, release: Release, chunks: ChunkCounts) -> InstalledRelease:
        if release.size > self.max_size:
            raise InvalidRelease(f"the release has {release.size} bytes, the limit is {self.max_size} (--max-size)")
        manifest = await self._manifest(release)
        known = {file.sha256 for file in manifest.files if await asyncio.to_thread(self.store.has_blob, file.sha256)}
        wanted = {file.sha256: file for file in manifest.files if file.sha256 not in known}
        chunks.reused += sum(file.chunk_count for file in manifest.files if file.sha256 in known)
        with ExitStack() as stack:
            partials = {
                sha256: stack.enter_context(self.store.partial(release.id, file)) for sha256, file in wanted.items()
            }
            self.store.check_space(sum(max(0, file.size - partials[sha].allocated) for sha, file in wanted.items()))
            await self._fill(manifest, list(wanted.values()), partials, chunks)
            for sha256, file in wanted.items():
                await asyncio.to_thread(self.store.keep, partials[sha256], file)
        return await asyncio.to_thread(self.store.install, release, manifest)

    async def _fill(
        self, manifest: Manifest, files: list[FileEntry], partials: Mapping[bytes, PartialFile], chunks: ChunkCounts
    ) -> None:
        assembler = Assembler(files, manifest.chunk_size)
        kept = await asyncio.to_thread(_adopt, assembler, manifest, files, partials)
        chunks.reused += len(kept)
        done = manifest.size - sum(file.size for file in files) + sum(kept)
        self.on_progress(done, manifest.size)
        refusals: list[str] = []

        def offer(url: str, raw_event: Mapping[str, object]) -> bool:
            nonlocal done
            try:
                data, places = assembler.offer(raw_event)
            except (InvalidEvent, InvalidChunk) as error:
                chunks.rejected += 1
                refusals.append(f"{url}: {error}")
                return False
            for place in places:
                partials[place.file.sha256].write(place.offset, data)
                done += len(data)
                chunks.fetched += 1
            self.on_progress(done, manifest.size)
            return True

        total = len(assembler.missing)
        await self.pool.collect(assembler.missing, offer)
        if missing := len(assembler.missing):
            if refusals:
                raise InvalidChunk(f"{missing} of {total} chunks did not verify or are missing: {refusals[0]}")
            raise ChunksMissing(f"{missing} of {total} chunks are missing; run it again later{self._because()}")

    def _because(self) -> str:
        reasons = self.pool.reasons()
        return f" ({reasons})" if reasons else ""


def _adopt(
    assembler: Assembler, manifest: Manifest, files: Sequence[FileEntry], partials: Mapping[bytes, PartialFile]
) -> list[int]:
    """Take what an earlier run left, where it hashes right; returns the sizes of those chunks."""
    kept = []
    for file in files:
        for chunk in file.chunks(manifest.chunk_size):
            if hashlib.sha256(partials[file.sha256].read(chunk.offset, chunk.size)).digest() == chunk.sha256:
                assembler.have(chunk, file)
                kept.append(chunk.size)
    return kept
