"""Publish use case: files → blobs and chunks → manifest → release → read back → head.

The head is sent last, so a visible head points at a complete release. Does network I/O through a pool and an uploader,
and disk I/O through the journal.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, TypeVar

from distribution.announce import SentEvent
from distribution.chunking import encoded_length
from distribution.clock import check_clock
from distribution.dry_run import DryRun, make_dry_run
from distribution.errors import CallerError, NotPublished
from distribution.event_writer import EventWriter, head_time
from distribution.events import Release, head_draft
from distribution.head_writer import HeadWriter
from distribution.journal import Journal
from distribution.manifest import Manifest
from distribution.nip94 import FileEvents, file_drafts, publish_file_events
from distribution.plan import Plan, check_fits, make_plan
from distribution.publish_history import PublishHistory
from distribution.publish_record import PublishRecord
from distribution.release_sender import ReleaseSender, check_reached
from distribution.release_spec import ReleaseSpec
from distribution.remembering_signer import RememberingSigner
from distribution.revocation import find_revocation
from distribution.source import BLOB_SIZE, FileHasher, HashedSource
from distribution.upload import ServerReport, Uploader, file_blobs, manifest_blob
from relay_client.event import EventSigner, Signer
from relay_client.keys import SecretKey, local_key
from relay_client.nip11 import fetch_relay_infos
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport

_MANY = 50  # events from which a send rate is measured
_FRAME = len('["EVENT",]')  # bytes around an event

OnProgress = Callable[[int, int], None]  # bytes sent so far, total bytes; the total is an estimate at first

_Result = TypeVar("_Result")


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
    announced: Mapping[str, SentEvent] = field(default_factory=dict)  # `note` and `handler`, if they were asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Publishes releases of one author to the relays of a pool.

    Args:
        pool: Open pool of relays to publish to.
        journal: Journal of earlier publishes.
        key: Signs as the author.
        chunk_key: Throw-away key that signs the chunks of a new publish; None: the author does, with a local key. A
            publish that is continued keeps the signatures of its own.
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
    key: EventSigner
    now: Callable[[], int]
    chunk_key: SecretKey | None = None
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
        if self.send_chunks and self.chunk_key is None and local_key(self.key) is None:
            raise CallerError("a remote signer cannot sign the chunks of files: use --chunk-key throwaway")

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
        hasher = FileHasher(spec.files)
        hashed = await hasher.hash(self._blob_size)
        writer = HeadWriter(self.pool, self.key, spec.name, now=self.now)
        infos, _ = await asyncio.gather(fetch_relay_infos(self.pool.urls, self.pool.timeouts), writer.read())
        check_reached(self.pool, "no relay answers")
        check_clock((info.time for info in infos.values()), now=self.now(), from_future=writer.from_future)
        earlier = self._history.find(spec, hashed)
        blob_size = earlier.blob_size if earlier else self._blob_size
        hashed = await hasher.hash(blob_size)
        await self._check_servers(uploader, hashed, blob_size or BLOB_SIZE)
        record = await self._history.begin(
            spec,
            hashed,
            writer.counting,
            hint=self.pool.urls[0],
            servers=uploader.origins,
            blob_size=blob_size if uploader.origins else None,
            chunk_key=self.chunk_key,
        )
        plan, stored = await self._plan_and_upload(spec, await hasher.hash(record.blob_size), record, uploader)
        plan = plan if self.send_chunks else plan.without_chunks()
        self._check_stored(uploader)
        self.pool.apply_limits(infos, frame_size=_FRAME + max(event.size for event in plan.events))
        check_reached(self.pool, "no relay accepts events of this size")
        release = await self._send(spec, plan, record, stored)
        self._history.record_release(release, plan.manifest, hint=record.hint)
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
        drafts = file_drafts(
            release, plan.manifest, uploader.origins, created_at=record.created_at, expires=record.expires
        )
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
        hasher = FileHasher(spec.files)
        hint = next(iter(self.pool.reports), "")
        record = await self._history.begin(spec, await hasher.hash(None), hint=hint, chunk_key=self.chunk_key)
        hashed = await hasher.hash(record.blob_size)
        plan = await asyncio.to_thread(make_plan, spec, hashed, record, author=self.key.pubkey)
        created_at = head_time(self._history.records(spec.name), record.version)
        chunk_key, writer = self._chunk_signer(spec.name, record), EventWriter(file, on_progress=self.on_progress)
        announced = [await event.sign_by(self._author) for event in plan.events[plan.chunks :]]
        release = Release.parse(announced[-1], now=record.created_at)
        draft = head_draft(
            release, hint=record.hint, created_at=created_at, expires=record.expires, servers=record.servers
        )
        last = [*announced, await self._author.sign_event(draft)]
        size = await asyncio.to_thread(writer.write_plan, plan, chunk_key, last)
        self._history.record_release(release, plan.manifest, hint=record.hint)
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
        hasher, relays = FileHasher(spec.files), list(self.pool.reports)
        hashed = await hasher.hash(self._blob_size)
        record = self._history.preview(
            spec,
            hashed,
            hint=relays[0],
            servers=self.servers,
            blob_size=self._blob_size,
            chunk_author=self.chunk_key.pubkey if self.chunk_key else None,
        )
        hashed = await hasher.hash(record.blob_size)
        plan = await asyncio.to_thread(make_plan, spec, hashed, record, author=self.key.pubkey)
        blobs = [*file_blobs(spec.files, hashed, record.blob_size), manifest_blob(plan.manifest)]
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
            nip94=self.nip94,
        )

    @property
    def _history(self) -> PublishHistory:
        return PublishHistory(journal=self.journal, author=self.key.pubkey, now=self.now)

    @property
    def _author(self) -> EventSigner:
        """Signer of events that a rerun makes again: a remote one is asked once for each."""
        return self.key if local_key(self.key) else RememberingSigner(self.key, self.journal)

    def _chunk_signer(self, name: str, record: PublishRecord) -> Signer:
        """Return the signer of the chunks: the author, or the recorded signatures of a throw-away key."""
        if signer := self.journal.chunk_signatures(self.key.pubkey, name, record) or local_key(self.key):
            return signer
        raise CallerError(
            f"version {record.version} of {name} was these files, with chunks signed by a local key; a remote signer"
            " cannot sign them: use that key, or --new-version"
        )

    @property
    def _blob_size(self) -> int | None:
        """Size of the pieces of large files, in bytes; None: no file is cut."""
        return BLOB_SIZE if self.servers else None

    async def _plan_and_upload(
        self, spec: ReleaseSpec, hashed: Sequence[HashedSource], record: PublishRecord, uploader: Uploader
    ) -> tuple[Plan, int]:
        """Plan the events while the files are uploaded, then upload the manifest.

        Returns:
            The plan, and the bytes that a server has now.
        """
        blobs = file_blobs(spec.files, hashed, record.blob_size) if uploader.origins else []
        stored = sum(blob.size for blob in blobs)
        encoded = sum(encoded_length(file.size) for file in spec.files) if self.send_chunks else 0  # to send later
        await asyncio.to_thread(check_fits, spec, hashed, record)

        async def plan_events() -> Plan:
            return await asyncio.to_thread(make_plan, spec, hashed, record, author=self.key.pubkey)

        async def upload() -> None:
            await uploader.upload(blobs, lambda done: self.on_progress(done, stored + encoded))

        if record.resumed:  # nothing of a revoked release is uploaded
            plan = await plan_events()
            await self._check_not_revoked(spec.name, record.version, plan.release_id)
            await upload()
        else:
            plan = await _first_of(plan_events(), upload())
        if not blobs:
            return plan, 0
        manifest = manifest_blob(plan.manifest)
        await uploader.upload([manifest])
        return plan, stored + manifest.size

    async def _send(self, spec: ReleaseSpec, plan: Plan, record: PublishRecord, stored: int) -> Release:
        """Send the events to relays, and record how fast each was; `stored` bytes are on servers already."""
        with self.journal.receipts(plan.release_id) as receipts:
            sender = ReleaseSender(
                pool=self.pool,
                key=self._author,
                chunk_key=self._chunk_signer(spec.name, record) if plan.chunks else None,
                is_local=local_key(self.key) is not None,
                now=self.now,
                plan=plan,
                receipts=receipts,
                copies=self.copies,
                check=self.check,
                on_progress=lambda done: self.on_progress(stored + done, stored + plan.size),
            )
            release = await sender.send(resumed=record.resumed)
        for url, report in self.pool.reports.items():
            if report.accepted >= _MANY:
                self.journal.record_send_rate(url, report.accepted / report.seconds)
        return release

    async def _check_servers(self, uploader: Uploader, hashed: Sequence[HashedSource], blob_size: int) -> None:
        """Leave out the servers that would not take the largest blob."""
        if self.servers:
            sha256, size = max((blob for file in hashed for blob in file.blobs(blob_size)), key=lambda blob: blob[1])
            await uploader.check(sha256=sha256, size=size)
            self._check_stored(uploader)

    def _check_stored(self, uploader: Uploader) -> None:
        if not self.send_chunks and not uploader.origins:
            raise NotPublished(f"no server takes the files: {uploader.failure_summary()}")

    async def _check_not_revoked(self, name: str, version: int, release_id: bytes) -> None:
        if await find_revocation(self.pool, self.key.pubkey, release_id, now=self.now()):
            raise CallerError(f"version {version} of {name} was these files, and is revoked: use --new-version")


async def _first_of(main: Coroutine[Any, Any, _Result], other: Coroutine[Any, Any, None]) -> _Result:
    """Run both at once and return the result of the first; raise what either raises."""
    try:
        async with asyncio.TaskGroup() as group:
            result = group.create_task(main)
            group.create_task(other)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return result.result()
