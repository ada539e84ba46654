"""What a publish consists of: every event of a release but its head, with the ids they will have. Does disk I/O.

An event is drafted once to learn its id, and again when it is signed and sent: a release never sits in memory.
"""

import functools
import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from distribution.chunking import spans
from distribution.errors import CallerError
from distribution.events import MAX_MANIFEST_CHUNKS, chunk_draft, release_draft
from distribution.journal import PublishRecord
from distribution.manifest import Manifest
from distribution.source import HashedSource, SourceFile
from relay_client.allocation import Allocation
from relay_client.event import Event, EventDraft, Signer

MAX_EVENT_SIZE = 65_536  # bytes as JSON: what the smallest common relay takes


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEvent:
    """An event to be."""

    draft: Callable[[], EventDraft]
    id: bytes
    size: int  # bytes of the event, as JSON

    def sign(self, key: Signer) -> Event:
        """The event; raises CallerError if the file it is made of is no more what it was."""
        event = self.draft().sign(key)
        if event.id != self.id:
            raise CallerError("a file changed while it was being published")
        return event


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every event of a release but its head, in the order of sending."""

    manifest: Manifest
    events: Sequence[PlannedEvent]
    chunks: int  # so many of them carry files; the others announce them, the release itself last

    @property
    def announcement(self) -> list[bytes]:
        """The ids of the manifest's events and of the release."""
        return [event.id for event in self.events[self.chunks :]]

    @property
    def release_id(self) -> bytes:
        """The release's event id; it depends on every other id."""
        return self.events[-1].id

    @property
    def size(self) -> int:
        """Bytes of all events, as JSON."""
        return sum(event.size for event in self.events)

    def allocation(
        self, relays: Sequence[str], *, copies: int | None = None, held: Mapping[str, Container[int]] | None = None
    ) -> Allocation:
        """Who gets what: chunks to so many relays (None: to all), then what announces them to all of them."""
        everywhere = len(relays)
        wanted = [copies or everywhere] * self.chunks + [everywhere] * (len(self.events) - self.chunks)
        return Allocation(relays, wanted, held=held, last=self.chunks)


def max_events(files: Sequence[SourceFile]) -> int:
    """So many events or fewer make a release of these files, without a look into them."""
    chunks = sum(1 for source in files for _ in spans([length for _, length in source.segments]))
    return chunks + MAX_MANIFEST_CHUNKS + 2  # and the release and its head


def make_plan(
    files: Sequence[SourceFile],
    hashed: Sequence[HashedSource],
    entry: PublishRecord,
    *,
    name: str,
    format: str,  # noqa: A002 (the protocol's word)
    author: bytes,
) -> Plan:
    """Read the files and plan their events; raises CallerError if they changed since, or are too much for a release."""
    events: dict[bytes, PlannedEvent] = {}  # by id: equal chunks are one event

    def plan(draft: Callable[[], EventDraft]) -> bytes:
        made = draft()
        event_id = made.id_for(author)
        events.setdefault(event_id, PlannedEvent(draft=draft, id=event_id, size=made.signed_size))
        return event_id

    entries = []
    for source, facts in zip(files, hashed, strict=True):
        references, whole = bytearray(), hashlib.sha256()
        for offset, size in spans([length for _, length in source.segments]):
            data = source.read(offset, size)
            whole.update(data)
            references += plan(functools.partial(_draft_chunk, source, offset, size, entry))
            references += hashlib.sha256(data).digest()
        if whole.digest() != facts.sha256:
            raise CallerError(f"{source.path} changed while it was being published")
        entries.append(facts.entry(bytes(references)))
    chunks, manifest = len(events), Manifest(files=tuple(entries))
    encoded = manifest.encode()
    manifest_ids = [
        plan(functools.partial(_draft_data, encoded[offset : offset + size], entry))
        for offset, size in spans([len(encoded)])
    ]
    if len(manifest_ids) > MAX_MANIFEST_CHUNKS:
        raise CallerError(f"too large to publish: {manifest.size} bytes")
    release_id = plan(
        functools.partial(
            release_draft,
            encoded,
            manifest_ids,
            name=name,
            version=entry.version,
            format=format,
            size=manifest.size,
            card=entry.card,
            hint=entry.hint,
            created_at=entry.created_at,
            expires=entry.expires,
        )
    )
    if events[release_id].size > MAX_EVENT_SIZE:
        raise CallerError(f"the card is too long: relays take events of {MAX_EVENT_SIZE} bytes")
    return Plan(manifest=manifest, events=list(events.values()), chunks=chunks)


def _draft_chunk(source: SourceFile, offset: int, size: int, entry: PublishRecord) -> EventDraft:
    return _draft_data(source.read(offset, size), entry)


def _draft_data(data: bytes, entry: PublishRecord) -> EventDraft:
    sha256 = hashlib.sha256(data).digest()
    return chunk_draft(data, sha256=sha256, created_at=entry.created_at, expires=entry.expires)
