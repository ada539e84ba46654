"""Plan of a publish: every event of a release except its head, with the id it will have. Does disk I/O.

An event is drafted once to compute its id, and again when it is signed and sent, so a release is never in memory.
"""

import functools
import hashlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from distribution.chunk_signatures import ChunkSignatures
from distribution.chunking import CHUNK_SIZE, spans
from distribution.errors import CallerError
from distribution.events import MAX_MANIFEST_CHUNKS, chunk_draft, release_draft
from distribution.manifest import FileEntry, Manifest, is_digest
from distribution.publish_record import PublishRecord
from distribution.release_spec import ReleaseSpec
from distribution.source import HashedSource, SourceFile
from relay_client.allocation import Allocation
from relay_client.event import Event, EventDraft, EventSigner, Signer

MAX_EVENT_SIZE = 65_536  # bytes as JSON, the limit of common relays


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEvent:
    """An event that is not signed yet.

    Raises:
        CallerError: The values cannot be those of an event.
    """

    draft: Callable[[], EventDraft]
    id: bytes
    size: int  # bytes of the event, as JSON

    def __post_init__(self) -> None:
        if not is_digest(self.id) or self.size <= 0:
            raise CallerError("a planned event needs an id of 32 bytes and a size above 0")

    def sign(self, key: Signer) -> Event:
        """Draft the event again and sign it; raises CallerError if its file changed since."""
        return self._checked(self.draft().sign(key))

    async def sign_by(self, signer: EventSigner) -> Event:
        """Draft the event again and have it signed; raises CallerError as `sign` does, and what the signer raises."""
        return self._checked(await signer.sign_event(self.draft()))

    def _checked(self, event: Event) -> Event:
        if event.id != self.id:
            raise CallerError("a file changed while it was being published")
        return event


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every event of a release except its head, in the order of sending.

    Raises:
        CallerError: No release has such events.
    """

    manifest: Manifest
    events: Sequence[PlannedEvent]
    chunks: int  # number of leading events that carry files; then come the manifest's, and the release itself

    def __post_init__(self) -> None:
        if not 0 <= self.chunks <= len(self.events) - 2:
            raise CallerError("a plan needs a manifest and a release")
        if len({event.id for event in self.events}) != len(self.events):
            raise CallerError("a plan has one event twice")

    @property
    def announcement(self) -> list[bytes]:
        """Ids of the manifest's events and of the release, in order."""
        return [event.id for event in self.events[self.chunks :]]

    @property
    def release_id(self) -> bytes:
        """Event id of the release; it depends on every other id."""
        return self.events[-1].id

    @property
    def size(self) -> int:
        """Size of all events as JSON, in bytes."""
        return sum(event.size for event in self.events)

    def without_chunks(self) -> "Plan":
        """Return the plan of a publish whose files travel by Blossom servers only."""
        return replace(self, events=self.events[self.chunks :], chunks=0)

    def allocation(
        self, relays: Sequence[str], *, copies: int | None = None, held: Mapping[str, Container[int]] | None = None
    ) -> Allocation:
        """Allocate events to relays: each chunk to `copies` relays, the announcement to all of them, and last.

        Args:
            relays: URLs.
            copies: Relays that each chunk goes to; None: all.
            held: Numbers of the events that a relay has already, by URL.
        """
        everywhere = len(relays)
        wanted = [copies or everywhere] * self.chunks + [everywhere] * (len(self.events) - self.chunks)
        return Allocation(relays, wanted, stored=held, barrier=self.chunks)


def make_plan(spec: ReleaseSpec, hashed: Sequence[HashedSource], record: PublishRecord, *, author: bytes) -> Plan:
    """Read the files and compute the ids of their events.

    Args:
        spec: What to publish.
        hashed: Hashes of `spec.files`, in the same order.
        record: Version, time, card, tags, hint and expiry from the journal.
        author: X-only public key, 32 bytes. The record may name another for the chunks.

    Raises:
        CallerError: A file changed since it was hashed, or the files or the card are too large for a release.
        OSError: A file cannot be read.
    """
    events: dict[bytes, PlannedEvent] = {}  # by id: equal chunks are one event

    def plan(draft: Callable[[], EventDraft], made: EventDraft | None = None, *, signed_by: bytes = author) -> bytes:
        event_id, size = (made or draft()).identify(signed_by)
        events.setdefault(event_id, PlannedEvent(draft=draft, id=event_id, size=size))
        return event_id

    check_fits(spec, hashed, record)
    plan_chunk = functools.partial(plan, signed_by=record.chunk_author or author)
    files = tuple(_plan_file(*pair, record, plan_chunk) for pair in zip(spec.files, hashed, strict=True))
    blob_size = record.blob_size if any(file.pieces for file in files) else None
    chunks, manifest = len(events), Manifest(files=files, blob_size=blob_size, chunk_author=record.chunk_author)
    encoded = manifest.encode()
    manifest_ids = [plan(functools.partial(_draft_data, part, record)) for part in _manifest_parts(encoded, record)]
    plan(functools.partial(_draft_release, spec, encoded, manifest_ids, record))
    return Plan(manifest=manifest, events=list(events.values()), chunks=chunks)


def check_fits(spec: ReleaseSpec, hashed: Sequence[HashedSource], record: PublishRecord) -> None:
    """Raise CallerError if the files or the card are too large for a release; reads no file."""
    files = []
    for file in hashed:
        chunks = sum(1 for _ in spans([segment.size for segment in file.segments]))
        files.append(file.entry(bytes(64 * chunks)))  # as long as the ids and hashes that it will name
    size = sum(file.size for file in files)
    encoded = Manifest(files=tuple(files), blob_size=record.blob_size, chunk_author=record.chunk_author).encode()
    parts = _manifest_parts(encoded, record)
    if len(parts) > MAX_MANIFEST_CHUNKS:
        raise CallerError(f"too large to publish: {size:,} bytes")
    if _draft_release(spec, encoded, [bytes(32)] * len(parts), record).signed_size > MAX_EVENT_SIZE:
        raise CallerError(f"the card is too long: with it the release event exceeds {MAX_EVENT_SIZE:,} bytes")


def _manifest_parts(encoded: bytes, record: PublishRecord) -> list[bytes]:
    """Cut a manifest into the contents of its events."""
    part_size = record.part_size if len(encoded) <= MAX_MANIFEST_CHUNKS * record.part_size else CHUNK_SIZE
    return [encoded[offset : offset + size] for offset, size in spans([len(encoded)], part_size)]


def _draft_release(
    spec: ReleaseSpec, encoded: bytes, manifest_ids: Sequence[bytes], record: PublishRecord
) -> EventDraft:
    return release_draft(
        encoded,
        manifest_ids,
        name=spec.name,
        version=record.version,
        format=spec.format,
        size=sum(file.size for file in spec.files),
        card=record.card,
        hint=record.hint,
        created_at=record.created_at,
        expires=record.expires,
        servers=record.servers,
        tags=record.tags,
    )


def sign_chunks(files: Iterable[SourceFile], record: PublishRecord, key: Signer) -> ChunkSignatures:
    """Read the files, and sign the events of all their chunks; raises OSError.

    Args:
        files: Files to publish.
        record: Time and expiry of the publish. Its version does not matter, and may be unknown yet.
        key: Throw-away key.
    """
    drafts = (
        _draft_chunk(file, offset, size, record)
        for file in files
        for offset, size in spans([length for _, length in file.segments])
    )
    return ChunkSignatures.make(key, (draft.id_for(key.pubkey) for draft in drafts))


def _plan_file(
    source: SourceFile,
    hashed: HashedSource,
    record: PublishRecord,
    plan: Callable[[Callable[[], EventDraft], EventDraft], bytes],
) -> FileEntry:
    references, whole = bytearray(), hashlib.sha256()
    for offset, size in spans([length for _, length in source.segments]):
        data = source.read(offset, size)
        whole.update(data)
        sha256 = hashlib.sha256(data).digest()
        draft = chunk_draft(data, sha256=sha256, created_at=record.created_at, expires=record.expires)
        references += plan(functools.partial(_draft_chunk, source, offset, size, record), draft) + sha256
    if whole.digest() != hashed.sha256:
        raise CallerError(f"{source.path} changed while it was being published")
    return hashed.entry(bytes(references))


def _draft_chunk(source: SourceFile, offset: int, size: int, record: PublishRecord) -> EventDraft:
    return _draft_data(source.read(offset, size), record)


def _draft_data(data: bytes, record: PublishRecord) -> EventDraft:
    sha256 = hashlib.sha256(data).digest()
    return chunk_draft(data, sha256=sha256, created_at=record.created_at, expires=record.expires)
