"""Publish a release: files → chunks → manifest → release, read back, and the head last.

A visible head means a complete set. Does network I/O through a pool and disk I/O through the journal.
"""

import asyncio
import contextlib
import functools
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from distribution.announcement import (
    HEAD_KIND,
    MAX_MANIFEST_CHUNKS,
    MAX_VERSION,
    Head,
    Release,
    chunk_draft,
    head_draft,
    release_draft,
)
from distribution.chunking import spans
from distribution.errors import CallerError, InvalidRelease, NotPublished
from distribution.journal import Entry, Journal, contents_digest
from distribution.manifest import Manifest, is_name
from distribution.source import HashedSource, SourceFile
from relay_client.errors import InvalidEvent
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.pool import Pool, RelayReport

_HEADS_PER_RELAY = 10
_READ_BACK_TRIES = 6  # some relays say OK before an event can be read
_READ_BACK_FIRST_WAIT_S = 0.1  # doubles with each try

OnProgress = Callable[[int, int], None]  # bytes of files sent so far, bytes in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a publish ended with."""

    release: Release
    manifest: Manifest
    events: int  # that make up the release, its head included
    bytes: int  # of those events, as JSON
    relays: Mapping[str, RelayReport]
    resumed: bool  # the same files were published before: version, card and id are those of then


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """An event to be. It is drafted again and signed when it is sent, so that a release never sits in memory."""

    draft: Callable[[], EventDraft]
    id: bytes
    size: int  # bytes of the event, as JSON
    carries: int  # bytes of files


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Every event of a release but its head, in the order of sending; the release itself comes last."""

    manifest: Manifest
    events: list[_Planned]
    announcement: Sequence[bytes]  # ids of the manifest's chunks and of the release


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Publishes as one author to the relays of a pool."""

    pool: Pool
    journal: Journal
    key: SecretKey
    now: Callable[[], int]  # seconds since 1970
    on_progress: OnProgress = lambda _done, _total: None

    async def publish(
        self,
        files: Sequence[SourceFile],
        *,
        name: str,
        format: str,  # noqa: A002 (the protocol's word)
        card: Mapping[str, object],
        new_version: bool = False,
    ) -> Published:
        """Publish files under a name; the same files again send only what the relays lack and mint no new id.

        `new_version` makes another version of the same files. Raises CallerError, NotPublished, StoreError, OSError.
        """
        if not is_name(name):
            raise CallerError(f"not a name for a model: {name!r} (a-z, 0-9, dot, dash, underscore; at most 64)")
        hashed = await asyncio.to_thread(lambda: [file.hash() for file in files])
        heads = await self._heads(name)
        entry = self._enter(hashed, name, card, [head for _, head in heads], new_version=new_version)
        plan = await asyncio.to_thread(self._plan, files, hashed, entry, name, format)
        held = await self.pool.holdings([event.id for event in plan.events]) if entry.resumed else {}
        for url, ids in held.items():
            self.pool.reports[url].duplicate += len(ids)
        await self.pool.publish(self._signed(plan, held))
        self._check_reached("no relay took the whole release")
        release = await self._read_back(plan)
        head = head_draft(release, hint=entry.hint, created_at=self._head_time(heads))
        await self._publish_head(head, release, heads)
        return Published(
            release=release,
            manifest=plan.manifest,
            events=len(plan.events) + 1,
            bytes=sum(event.size for event in plan.events) + head.signed_size,
            relays=self.pool.reports,
            resumed=entry.resumed,
        )

    async def _heads(self, name: str) -> list[tuple[str, Head]]:
        """(relay, head) of this author's name, as the relays have them now."""
        wanted = Filter(authors=(self.key.pubkey,), kinds=(HEAD_KIND,), tags={"d": (name,)}, limit=_HEADS_PER_RELAY)
        heads = []
        for url, raw_event in await self.pool.query(wanted):
            with contextlib.suppress(InvalidEvent, InvalidRelease):
                head = Head.parse(Event.parse(raw_event), now=self.now())
                if (head.author, head.name) == (self.key.pubkey, name):
                    heads.append((url, head))
        self._check_reached("no relay answers")
        return heads

    def _enter(
        self,
        hashed: Sequence[HashedSource],
        name: str,
        card: Mapping[str, object],
        heads: list[Head],
        *,
        new_version: bool,
    ) -> Entry:
        contents = contents_digest([(file.path, file.sha256) for file in hashed])
        entry = None if new_version else self.journal.find(self.key.pubkey, name, contents)
        highest = max((head.version for head in heads), default=0)
        if highest >= MAX_VERSION:
            raise CallerError(f"{name} has reached the last version there is, {MAX_VERSION}: use another name")
        return entry or self.journal.begin(
            self.key.pubkey,
            name,
            contents,
            above=highest,
            created_at=self.now(),
            card=card,
            hint=self.pool.urls[0],
        )

    def _plan(
        self, files: Sequence[SourceFile], hashed: Sequence[HashedSource], entry: Entry, name: str, release_format: str
    ) -> _Plan:
        events: dict[bytes, _Planned] = {}  # by id: equal chunks are one event

        def plan(draft: Callable[[], EventDraft], carries: int = 0) -> bytes:
            made = draft()
            event_id = made.id_for(self.key.pubkey)
            events.setdefault(event_id, _Planned(draft=draft, id=event_id, size=made.signed_size, carries=carries))
            return event_id

        entries = []
        for source, facts in zip(files, hashed, strict=True):
            references, whole = bytearray(), hashlib.sha256()
            for offset, size in spans([length for _, length in source.segments]):
                data = source.read(offset, size)
                whole.update(data)
                draft = functools.partial(_draft_chunk, source, offset, size, entry.created_at)
                references += plan(draft, size) + hashlib.sha256(data).digest()
            if whole.digest() != facts.sha256:
                raise CallerError(f"{source.path} changed while it was being published")
            entries.append(facts.entry(bytes(references)))
        manifest = Manifest(files=tuple(entries))
        encoded = manifest.encode()
        manifest_ids = [
            plan(functools.partial(_draft_data, encoded[offset : offset + size], entry.created_at))
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
                format=release_format,
                size=manifest.size,
                card=entry.card,
                hint=entry.hint,
                created_at=entry.created_at,
            )
        )
        return _Plan(manifest=manifest, events=list(events.values()), announcement=[*manifest_ids, release_id])

    def _signed(self, plan: _Plan, held: Mapping[str, set[bytes]]) -> Iterator[tuple[Event, list[str]]]:
        """Each event, signed, with the relays that lack it."""
        done, total = 0, sum(planned.carries for planned in plan.events)
        for planned in plan.events:
            urls = [url for url in self.pool.urls if planned.id not in held.get(url, ())]
            if urls:
                event = planned.draft().sign(self.key)
                if event.id != planned.id:
                    raise CallerError("a file changed while it was being published")
                yield event, urls
            done += planned.carries
            self.on_progress(done, total)

    async def _read_back(self, plan: _Plan) -> Release:
        """The release as a relay gives it out, once all of them do."""

        async def complete() -> set[str]:
            held = await self.pool.holdings(plan.announcement)
            return {url for url, ids in held.items() if ids.issuperset(plan.announcement)}

        await self._until_readable(complete)
        for _, raw_event in await self.pool.query(Filter(ids=(plan.announcement[-1],), limit=1)):
            with contextlib.suppress(InvalidEvent):
                return Release.parse(Event.parse(raw_event), now=self.now())
        raise NotPublished("no relay gives the release out")

    async def _publish_head(self, draft: EventDraft, release: Release, heads: Sequence[tuple[str, Head]]) -> None:
        """Point the name at the release, where it does not yet, and never back from a higher version."""

        def current(heads: Sequence[tuple[str, Head]]) -> set[str]:
            return {url for url, head in heads if head.names(release) or head.version > release.version}

        async def found() -> set[str]:
            return current(await self._heads(release.name))

        for url in current(heads) & set(self.pool.urls):
            self.pool.reports[url].duplicate += 1
        urls = [url for url in self.pool.urls if url not in current(heads)]
        if urls:
            await self.pool.publish([(draft.sign(self.key), urls)])
            self._check_reached("no relay took the head")
            await self._until_readable(found)

    async def _until_readable(self, read: Callable[[], Awaitable[set[str]]]) -> None:
        """Wait until all relays give out what they took; `read` asks which do. One that never does is left out."""
        wait_s = _READ_BACK_FIRST_WAIT_S
        for _ in range(_READ_BACK_TRIES):
            lacking = set(self.pool.urls) - await read()
            if not lacking:
                return
            await asyncio.sleep(wait_s)
            wait_s *= 2
        for url in set(self.pool.urls) - await read():
            self.pool.reports[url].reason = f"{url}: said OK, and does not give the release out"
        self._check_reached("no relay gives the release out")

    def _head_time(self, heads: Sequence[tuple[str, Head]]) -> int:
        return max([self.now(), *(head.created_at + 1 for _, head in heads)])

    def _check_reached(self, failure: str) -> None:
        if not self.pool.urls:
            raise NotPublished(f"{failure}: {self.pool.reasons()}")


def _draft_chunk(source: SourceFile, offset: int, size: int, created_at: int) -> EventDraft:
    return _draft_data(source.read(offset, size), created_at)


def _draft_data(data: bytes, created_at: int) -> EventDraft:
    return chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=created_at)
