"""Publish use case: files → blobs and chunks → manifest → release → read back → head.

The head is sent last, so a visible head points at a complete release. Does network I/O through a pool and an uploader,
and disk I/O through the journal.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from distribution.clock import check_clock, clock_advice
from distribution.confirm import ChunkCheck
from distribution.dry_run import DryRun, make_dry_run
from distribution.errors import CallerError, NotPublished
from distribution.event_tags import MAX_FUTURE_S, public_servers
from distribution.event_writer import EventWriter, head_time
from distribution.events import MAX_VERSION, Head, Release
from distribution.head_writer import HeadWriter
from distribution.journal import Journal, PublishRecord, contents_digest
from distribution.manifest import Manifest
from distribution.nip94 import FileEvents, file_drafts, publish_file_events
from distribution.plan import Plan, make_plan
from distribution.receipts import Receipts
from distribution.release_spec import ReleaseSpec
from distribution.revocation import find_revocation
from distribution.source import HashedSource
from distribution.upload import BLOB_SIZE, CUT_ABOVE, ServerReport, Uploader, local_blobs
from relay_client.errors import InvalidEvent
from relay_client.event import Event
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.nip11 import fetch_relay_infos
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport

_SAMPLE = 8  # chunks to ask a relay for before its receipts are believed
_SIGNED_KEPT = 32  # signed events cached for the other relays, 2 MB
_MANY = 50  # events from which a send rate is measured
_FRAME = len('["EVENT",]')  # bytes around an event

OnProgress = Callable[[int, int], None]  # bytes sent so far, total bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Result of a publish."""

    release: Release
    manifest: Manifest
    events: int  # of the release, its head included; without its chunks if servers alone carry them
    bytes: int  # of those events, as JSON
    relays: Mapping[str, RelayReport]
    servers: Mapping[str, ServerReport] = field(default_factory=dict)
    resumed: bool  # the same files were published before, and keep their version, card and id
    file_events: FileEvents | None = None  # if they were asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Publishes releases of one author to the relays of a pool.

    Args:
        pool: Open pool of relays to publish to.
        journal: Journal of earlier publishes.
        key: Secret key of the author.
        now: Clock, in seconds since 1970.
        copies: Relays that each chunk goes to; None: all.
        check: Ignore the receipts of earlier runs, and ask the relays for every event.
        servers: Blossom servers to upload to, as `normalize_server` returns them.
        send_chunks: Send the files to relays too; otherwise only servers have them.
        nip94: Publish an event for each file that servers have as one blob (NIP-94), after the release.
        on_progress: Called with the bytes sent so far and the total.

    Raises:
        CallerError: `copies` is not above 0, or neither relays nor servers would get the files.
    """

    pool: Pool
    journal: Journal
    key: SecretKey
    now: Callable[[], int]
    copies: int | None = None
    check: bool = False
    servers: Sequence[str] = ()
    send_chunks: bool = True
    nip94: bool = False
    on_progress: OnProgress = lambda _done, _total: None

    def __post_init__(self) -> None:
        if self.copies is not None and self.copies <= 0:
            raise CallerError(f"copies must be above 0, not {self.copies}")
        if not self.send_chunks and not self.servers:
            raise CallerError("without chunks on relays, the files need a Blossom server: pass --server")

    async def publish(self, spec: ReleaseSpec) -> Published:
        """Publish a release, and point its name at it.

        The same files under the same name keep their version and ids: only what relays lack is sent, so a rerun
        completes an interrupted publish.

        Args:
            spec: What to publish.

        Raises:
            CallerError: The release is too large, its version has expired, is revoked or is the last possible one, or
                this machine's clock is wrong.
            NotPublished: No relay accepted and returned all of it, or no server did and the chunks are not sent; a
                rerun continues from there.
            StoreError: The journal cannot be used.
            OSError: A file or the disk failed.
        """
        async with Uploader(self.servers, signer=self.key, now=self.now, timeouts=self.pool.timeouts) as uploader:
            return await self._publish(spec, uploader)

    async def _publish(self, spec: ReleaseSpec, uploader: Uploader) -> Published:
        hashed = await asyncio.to_thread(_hash, spec, self._blob_size)
        writer = HeadWriter(self.pool, self.key, spec.name, now=self.now)
        infos, _ = await asyncio.gather(fetch_relay_infos(self.pool.urls, self.pool.timeouts), writer.read())
        self._check_reached("no relay answers")
        check_clock((info.time for info in infos.values()), now=self.now(), from_future=writer.from_future)
        earlier = self._find(spec, hashed)
        blob_size = earlier.blob_size if earlier else self._blob_size
        hashed = await asyncio.to_thread(_hash_again, spec, hashed, self._blob_size, blob_size)
        await self._check_servers(uploader, hashed, blob_size or BLOB_SIZE)
        record = self._begin(spec, hashed, writer.counting, uploader.origins, hint=self.pool.urls[0])
        hashed = await asyncio.to_thread(_hash_again, spec, hashed, blob_size, record.blob_size)
        plan = await asyncio.to_thread(make_plan, spec, hashed, record, author=self.key.pubkey)
        if record.resumed:
            await self._check_not_revoked(spec.name, record.version, plan.release_id)
        blobs = local_blobs(plan.manifest, spec.files) if uploader.origins else []
        plan = plan if self.send_chunks else plan.without_chunks()
        stored = sum(blob.size for blob in blobs)
        await uploader.upload(blobs, lambda done: self.on_progress(done, stored + plan.size))
        self._check_stored(uploader)
        self.pool.apply_limits(infos, frame_size=_FRAME + max(event.size for event in plan.events))
        self._check_reached("no relay accepts events of this size")
        with self.journal.receipts(plan.release_id) as receipts:
            release = await self._send(plan, receipts, resumed=record.resumed, stored=stored)
        for url, report in self.pool.reports.items():
            if report.accepted >= _MANY:
                self.journal.record_send_rate(url, report.accepted / report.seconds)
        head_size = await writer.send(release, hint=record.hint, expires=record.expires, servers=uploader.origins)
        published = Published(
            release=release,
            manifest=plan.manifest,
            events=len(plan.events) + 1,
            bytes=plan.size + head_size,
            relays=self.pool.reports,
            servers=uploader.reports,
            resumed=record.resumed,
        )
        if not self.nip94:
            return published
        drafts = file_drafts(release, plan.manifest, uploader.origins, expires=record.expires)
        return replace(published, file_events=await publish_file_events(self.pool, self.key, drafts))

    async def write(self, spec: ReleaseSpec, file: BinaryIO) -> Published:
        """Write the events of a release to a file, one JSON object a line in the order of sending, its head last.

        Sends nothing, and the pool need not be open: its first address is named in the events. Versions follow the
        journal. The same files keep their version and ids, here and in `publish`.

        Raises:
            CallerError: The release is too large, or its version has expired or is the last possible one.
            StoreError: The journal cannot be used.
            OSError: A file cannot be read or written.
        """
        hashed = await asyncio.to_thread(_hash, spec, self._blob_size)
        record = self._begin(spec, hashed, (), (), hint=next(iter(self.pool.reports), ""))
        hashed = await asyncio.to_thread(_hash_again, spec, hashed, self._blob_size, record.blob_size)
        plan = await asyncio.to_thread(make_plan, spec, hashed, record, author=self.key.pubkey)
        records = [each for name, each in self.journal.publishes(self.key.pubkey) if name == spec.name]
        created_at = head_time(records, record.version)
        writer = EventWriter(file, on_progress=self.on_progress)
        release, size = await asyncio.to_thread(writer.write_plan, plan, record, self.key, created_at=created_at)
        return Published(
            release=release,
            manifest=plan.manifest,
            events=len(plan.events) + 1,
            bytes=size,
            relays={},
            resumed=record.resumed,
        )

    async def dry_run(self, spec: ReleaseSpec) -> DryRun:
        """Estimate what `publish` would send; sends and records nothing. The pool need not be open.

        Raises:
            CallerError: The release is too large, or its version has expired or is the last possible one.
            StoreError: The journal cannot be used.
            OSError: A file cannot be read.
        """
        hashed = await asyncio.to_thread(_hash, spec, self._blob_size)
        relays = list(self.pool.reports)
        record = self._find(spec, hashed) or PublishRecord(
            version=1 + self._highest(spec.name, ()),
            created_at=self.now(),
            card=spec.card,
            hint=relays[0],
            expires=self._expiry(spec),
            blob_size=self._blob_size,
            servers=tuple(self.servers),
            tags=spec.tags_at(self.now()),
            resumed=False,
        )
        hashed = await asyncio.to_thread(_hash_again, spec, hashed, self._blob_size, record.blob_size)
        plan = await asyncio.to_thread(make_plan, spec, hashed, record, author=self.key.pubkey)
        blobs = local_blobs(plan.manifest, spec.files)
        plan = plan if self.send_chunks else plan.without_chunks()
        return make_dry_run(
            plan,
            record,
            self.journal,
            name=spec.name,
            relays=relays,
            copies=self.copies,
            servers=self.servers,
            blobs=blobs,
        )

    @property
    def _blob_size(self) -> int | None:
        """Size of the pieces of large files, in bytes; None: no file is cut."""
        return BLOB_SIZE if self.servers else None

    async def _check_servers(self, uploader: Uploader, hashed: Sequence[HashedSource], blob_size: int) -> None:
        """Leave out the servers that would not take the largest blob."""
        if self.servers:
            sha256, size = max((blob for file in hashed for blob in file.blobs(blob_size)), key=lambda blob: blob[1])
            await uploader.check(sha256=sha256, size=size)
            self._check_stored(uploader)

    def _check_stored(self, uploader: Uploader) -> None:
        if not self.send_chunks and not uploader.origins:
            raise NotPublished(f"no server takes the files: {uploader.failure_summary()}")

    def _begin(
        self,
        spec: ReleaseSpec,
        hashed: Sequence[HashedSource],
        heads: Iterable[Head],
        servers: Sequence[str],
        *,
        hint: str,
    ) -> PublishRecord:
        """Return the publish of these files from the journal, or record a new one."""
        highest = self._highest(spec.name, heads)
        return self._find(spec, hashed) or self.journal.begin(
            self.key.pubkey,
            spec.name,
            _digest(hashed),
            above=highest,
            created_at=self.now(),
            card=spec.card,
            hint=hint,
            expires=self._expiry(spec),
            blob_size=BLOB_SIZE if servers else None,
            servers=public_servers(servers),
            tags=spec.tags_at(self.now()),
        )

    async def _check_not_revoked(self, name: str, version: int, release_id: bytes) -> None:
        if await find_revocation(self.pool, self.key.pubkey, release_id, now=self.now()):
            raise CallerError(f"version {version} of {name} was these files, and is revoked: use --new-version")

    def _find(self, spec: ReleaseSpec, hashed: Sequence[HashedSource]) -> PublishRecord | None:
        record = None if spec.new_version else self.journal.find(self.key.pubkey, spec.name, _digest(hashed))
        if record and record.created_at > self.now() + MAX_FUTURE_S:
            return None  # recorded with a wrong clock: readers refuse it
        if record and record.expires is not None and record.expires <= self.now():
            raise CallerError(
                f"version {record.version} of {spec.name} was these files, and has expired: use --new-version"
            )
        return record

    def _highest(self, name: str, heads: Iterable[Head]) -> int:
        """Return the highest version of a name so far; raise CallerError if none can follow it."""
        recorded = self.journal.highest(self.key.pubkey, name)
        highest = max([recorded, *(head.version for head in heads)])
        if highest >= MAX_VERSION:
            raise CallerError(f"{name} has reached the last version, {MAX_VERSION}: use another name")
        return highest

    def _expiry(self, spec: ReleaseSpec) -> int | None:
        return None if spec.expires_in_s is None else self.now() + spec.expires_in_s

    async def _send(self, plan: Plan, receipts: Receipts, *, resumed: bool, stored: int) -> Release:
        """Send each relay the events that it lacks, and return the release as it was read back."""
        held = await self._stored(plan, receipts) if resumed else {}
        allocation = plan.allocation(self.pool.urls, copies=self.copies, held=held)
        copies_left, done = allocation.pending, 0

        @functools.lru_cache(maxsize=_SIGNED_KEPT)
        def signed(number: int) -> Event:
            return plan.events[number].sign(self.key)

        def accepted(url: str, number: int) -> None:
            nonlocal done
            receipts.add(url, plan.events[number].id)
            sent = plan.size * (copies_left - allocation.pending) // copies_left
            done = max(done, sent)  # an event that moves to another relay is pending again
            self.on_progress(stored + done, stored + plan.size)

        check = ChunkCheck(
            [event.id for event in plan.events[: plan.chunks]],
            whole=self.check,
            confirmed=held if self.check else {},
            on_lost=receipts.forget,
        )
        while True:
            await self.pool.send(allocation, signed, accepted)
            if unplaced := len(allocation.unplaced):
                reasons = self.pool.failure_summary()
                failure = f"no relay accepted {unplaced:,} of {len(plan.events):,} events"
                raise NotPublished(f"{failure}: {reasons}{clock_advice(reasons)}")
            self._check_reached("no relay accepted the whole release")
            if not await check.run(self.pool, allocation):
                continue
            release = await self._read_back(plan)
            if set(allocation.relays) == set(self.pool.urls):  # otherwise the share of a dropped relay has to move
                return release

    async def _stored(self, plan: Plan, receipts: Receipts) -> dict[str, set[int]]:
        """Return the numbers of the events that each relay has, from its receipts or else from a query.

        A relay that does not return a sample of what it accepted has lost its events; its receipts are discarded.
        """
        ids = [event.id for event in plan.events]
        known = {url: set[bytes]() if self.check else {*ids} & receipts.accepted_by(url) for url in self.pool.urls}
        sample = {url: _sample([one for one in ids if one in taken], plan) for url, taken in known.items()}
        shown = await self.pool.stored_ids(sample)
        for url in known:
            if not shown.get(url, set()).issuperset(sample[url]):
                receipts.forget(url)
                known[url] = set()
        unknown = {url: [event_id for event_id in ids if event_id not in taken] for url, taken in known.items()}
        held = {}
        for url, found in (await self.pool.stored_ids(unknown)).items():
            for event_id in found:
                receipts.add(url, event_id)
            held[url] = {number for number, event_id in enumerate(ids) if event_id in found | known[url]}
            self.pool.note_duplicates(url, len(held[url]))
        return held

    async def _read_back(self, plan: Plan) -> Release:
        """Wait until the relays return the announcement, and return the release as read back."""

        async def complete() -> set[str]:
            held = await self.pool.stored_ids(plan.announcement)
            return {url for url, ids in held.items() if ids.issuperset(plan.announcement)}

        await self._until_readable(complete)
        for _, raw_event in await self.pool.query(Filter(ids=(plan.announcement[-1],), limit=1)):
            with contextlib.suppress(InvalidEvent):
                return Release.parse(Event.parse(raw_event), now=self.now())
        raise NotPublished("no relay returns the release")

    async def _until_readable(self, read: Callable[[], Awaitable[set[str]]]) -> None:
        """Wait until all relays return what they accepted; `read` asks which do. Drop those that never do."""
        for url in await self.pool.wait_until_readable(read):
            self.pool.drop(url, "accepted the release but does not return it")
        self._check_reached("no relay returns the release")

    def _check_reached(self, failure: str) -> None:
        if not self.pool.urls:
            raise NotPublished(f"{failure}: {self.pool.failure_summary()}")


def _hash(spec: ReleaseSpec, blob_size: int | None) -> list[HashedSource]:
    """Hash the files, and the pieces of large ones if `blob_size` is given."""
    return [file.hash(blob_size if file.size > CUT_ABOVE else None) for file in spec.files]


def _hash_again(
    spec: ReleaseSpec, hashed: list[HashedSource], before: int | None, blob_size: int | None
) -> list[HashedSource]:
    """Return the files cut as `blob_size` says: an earlier run may have cut them differently, or not at all."""
    return hashed if before == blob_size else _hash(spec, blob_size)


def _digest(hashed: Sequence[HashedSource]) -> bytes:
    return contents_digest([(file.path, file.sha256) for file in hashed])


def _sample(taken: Sequence[bytes], plan: Plan) -> list[bytes]:
    """Return a sample of the chunks that a relay accepted, spread over the release, and all of the announcement."""
    chunks = [event_id for event_id in taken if event_id not in plan.announcement]
    return [*chunks[:: max(1, len(chunks) // _SAMPLE)], *taken[len(chunks) :]]
