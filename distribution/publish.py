"""Publish a release: files → chunks → manifest → release, read back, and the head last.

A visible head means a complete set. Does network I/O through a pool and disk I/O through the journal.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from distribution.errors import CallerError, NotPublished
from distribution.events import MAX_VERSION, Head, Release, head_draft, heads_filter, is_card, read_heads
from distribution.journal import Journal, PublishRecord, contents_digest
from distribution.manifest import Manifest, is_name
from distribution.plan import Plan, make_plan
from distribution.readback import unreadable
from distribution.receipts import Receipts
from distribution.source import HashedSource, SourceFile
from relay_client.errors import InvalidEvent
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.nip11 import fetch_relay_infos
from relay_client.pool import Pool
from relay_client.sender import RelayReport

_SAMPLE = 8  # chunks of which a relay that took them must show some
_SIGNED_KEPT = 32  # events kept for relays that follow close behind, 2 MB
_MANY = 50  # events that say how fast a relay is
_FRAME = len('["EVENT",]')  # bytes around an event

OnProgress = Callable[[int, int], None]  # bytes of events sent so far, bytes in all


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
class Publisher:
    """Publishes as one author to the relays of a pool."""

    pool: Pool
    journal: Journal
    key: SecretKey
    now: Callable[[], int]  # seconds since 1970
    copies: int | None = None  # relays that each chunk goes to; None: all
    check: bool = False  # believe no receipts: ask the relays for everything
    on_progress: OnProgress = lambda _done, _total: None

    async def publish(
        self,
        files: Sequence[SourceFile],
        *,
        name: str,
        format: str,  # noqa: A002 (the protocol's word)
        card: Mapping[str, object],
        new_version: bool = False,
        expires_in_s: int | None = None,
    ) -> Published:
        """Publish files under a name; the same files again send only what the relays lack and mint no new id.

        `new_version` makes another version of the same files. Raises CallerError, NotPublished, StoreError, OSError.
        """
        check_words(name, card)
        hashed = await asyncio.to_thread(lambda: [file.hash() for file in files])
        infos, heads = await asyncio.gather(fetch_relay_infos(self.pool.urls), self._heads(name))
        expires = None if expires_in_s is None else self.now() + expires_in_s
        entry = self._enter(hashed, name, card, heads, new_version=new_version, expires=expires)
        plan = await asyncio.to_thread(
            make_plan, files, hashed, entry, name=name, format=format, author=self.key.pubkey
        )
        self.pool.apply_limits(infos, frame_size=_FRAME + max(event.size for event in plan.events))
        self._check_reached("no relay takes events as large as these")
        with self.journal.receipts(plan.release_id) as receipts:
            release = await self._deliver(plan, receipts, resumed=entry.resumed)
        for url, report in self.pool.reports.items():
            if report.accepted >= _MANY:
                self.journal.record_send_rate(url, report.accepted / report.seconds)
        head = head_draft(release, hint=entry.hint, created_at=self._head_time(heads), expires=entry.expires)
        await self._publish_head(head, release, heads)
        return Published(
            release=release,
            manifest=plan.manifest,
            events=len(plan.events) + 1,
            bytes=plan.size + head.signed_size,
            relays=self.pool.reports,
            resumed=entry.resumed,
        )

    async def _heads(self, name: str) -> list[tuple[str, Head]]:
        """(relay, head) of this author's name, as the relays have them now."""
        answers = await self.pool.query(heads_filter(self.key.pubkey, name))
        self._check_reached("no relay answers")
        found, _ = read_heads(answers, self.key.pubkey, name, now=self.now())
        return [(each.url, each.head) for each in found]

    def _enter(
        self,
        hashed: Sequence[HashedSource],
        name: str,
        card: Mapping[str, object],
        heads: Iterable[tuple[str, Head]],
        *,
        new_version: bool,
        expires: int | None,
    ) -> PublishRecord:
        contents = contents_digest([(file.path, file.sha256) for file in hashed])
        entry = None if new_version else self.journal.find(self.key.pubkey, name, contents)
        if entry and entry.expires is not None and entry.expires <= self.now():
            raise CallerError(f"version {entry.version} of {name} was these files, and has expired: use --new-version")
        highest = max((head.version for _, head in heads), default=0)
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
            expires=expires,
        )

    async def _deliver(self, plan: Plan, receipts: Receipts, *, resumed: bool) -> Release:
        """Bring the relays what they lack, until some give the whole announcement out; returns the release."""
        held = await self._held(plan, receipts) if resumed else {}
        allocation = plan.allocation(self.pool.urls, copies=self.copies, held=held)
        copies_left, done = allocation.pending, 0

        @functools.lru_cache(maxsize=_SIGNED_KEPT)
        def signed(number: int) -> Event:
            return plan.events[number].sign(self.key)

        def taken(url: str, number: int) -> None:
            nonlocal done
            receipts.add(url, plan.events[number].id)
            done = max(done, plan.size * (copies_left - allocation.pending) // copies_left)  # what moves is sent again
            self.on_progress(done, plan.size)

        while True:
            await self.pool.send(allocation, signed, taken)
            if lacking := len(allocation.unplaced):
                reasons = self.pool.failures()
                raise NotPublished(f"no relay took {lacking:,} of {len(plan.events):,} events: {reasons}")
            self._check_reached("no relay took the whole release")
            release = await self._read_back(plan)
            if set(allocation.relays) == set(self.pool.urls):  # else the share of a relay lost just now has to move
                return release

    async def _held(self, plan: Plan, receipts: Receipts) -> dict[str, set[int]]:
        """The numbers of the events that each relay has: by its receipts, else by asking for them.

        A relay that does not show a sample of what it took has lost its events, and its receipts are void.
        """
        ids = [event.id for event in plan.events]
        known = {url: set[bytes]() if self.check else {*ids} & receipts.of(url) for url in self.pool.urls}
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
            self.pool.reports[url].duplicate += len(held[url])
        return held

    async def _read_back(self, plan: Plan) -> Release:
        """The release as a relay gives it out, once all of them do."""

        async def complete() -> set[str]:
            held = await self.pool.stored_ids(plan.announcement)
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
        for url in await unreadable(self.pool, read):
            self.pool.reports[url].reason = f"{url}: said OK, and does not give the release out"
        self._check_reached("no relay gives the release out")

    def _head_time(self, heads: Sequence[tuple[str, Head]]) -> int:
        return max([self.now(), *(head.created_at + 1 for _, head in heads)])

    def _check_reached(self, failure: str) -> None:
        if not self.pool.urls:
            raise NotPublished(f"{failure}: {self.pool.failures()}")


def check_words(name: str, card: Mapping[str, object]) -> None:
    """Raise CallerError unless these can be the name and the card of a release."""
    if not is_name(name):
        raise CallerError(f"not a name for a model: {name!r} (a-z, 0-9, dot, dash, underscore; at most 64)")
    try:
        orjson.dumps(card)
    except TypeError as error:
        raise CallerError(f"the card has no JSON: {error}") from None
    if not is_card(card):
        raise CallerError("the card is nested too deep")


def _sample(taken: Sequence[bytes], plan: Plan) -> list[bytes]:
    """Some of the events that a relay took, spread over the release, and all that announce it."""
    chunks = [event_id for event_id in taken if event_id not in plan.announcement]
    return [*chunks[:: max(1, len(chunks) // _SAMPLE)], *taken[len(chunks) :]]
