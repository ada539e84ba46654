"""Checks of the models that a search is about to list: heads, revocations and manifests.

Does network I/O through a pool.
"""

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from distribution.chunking import decode
from distribution.errors import Equivocation, InvalidChunk, InvalidManifest, InvalidRelease
from distribution.events import CHUNK_KIND, HEAD_KIND, Head, Release
from distribution.heads import gather_signed
from distribution.manifest import Manifest
from distribution.paged_reader import LEAST_CUT, Budget, OnRelayEvent, PagedReader
from distribution.revocation import REVOCATION_KIND, Revocation
from distribution.search_results import Candidates, FoundModel
from distribution.trust import latest
from relay_client.batches import batched
from relay_client.errors import InvalidEvent
from relay_client.event import Event
from relay_client.filter import Filter
from relay_client.gather_plan import IDS_PER_REQUEST

_Heads = Mapping[tuple[bytes, str], Sequence[Head]]  # by author and name


@dataclass(slots=True)
class ResultChecks:
    """Checks candidates in their order until enough of them can be listed."""

    reader: PagedReader
    candidates: Candidates
    now: int  # seconds since 1970
    listed: list[FoundModel] = field(default_factory=list)
    crowded: set[bytes] = field(default_factory=set)  # authors with more models than may be listed
    checked: int = 0
    _counts: Counter[bytes] = field(default_factory=Counter)  # models listed of each author
    _budgets: dict[str, Budget] = field(default_factory=dict)

    async def run(self, ranked: Iterable[FoundModel]) -> None:
        """Check models, the best first, and list those that pass."""
        self._budgets, waiting = self.reader.budgets(), iter(ranked)
        while len(self.listed) < self.candidates.query.limit:
            batch = list(islice(filter(self._has_place, waiting), IDS_PER_REQUEST))
            if not batch:
                return
            for model in await self._check(batch):
                if self._has_place(model):
                    self._counts[model.author] += 1
                    self.listed.append(model)

    def _has_place(self, model: FoundModel) -> bool:
        has_place = self.candidates.has_place(model, self._counts)
        if not has_place:
            self.crowded.add(model.author)
        return has_place

    async def _check(self, batch: Sequence[FoundModel]) -> list[FoundModel]:
        """Return the latest versions of the models in a batch that match and are readable."""
        self.checked += len(batch)
        heads = await self._read_heads(batch)
        revoked = await self._read_revoked(batch, heads)
        models = {model.release_id: model for model in batch}
        releases = await self._gather_releases(
            head.release_id for same in heads.values() for head in same if head.release_id not in models
        )
        current = []
        for (author, _), same in heads.items():
            counted = [head for head in same if _agrees(head, models, releases)]
            with contextlib.suppress(Equivocation):  # two contents of one version: neither is the latest
                if head := latest(counted, revoked[author]):
                    current.append(models.get(head.release_id) or self.candidates.describe(releases[head.release_id]))
        return await self._readable([model for model in current if model])

    async def _read_heads(self, batch: Sequence[FoundModel]) -> _Heads:
        heads: dict[tuple[bytes, str], list[Head]] = defaultdict(list)
        keys = {model.key for model in batch}

        def receive(_url: str, raw_event: Mapping[str, object]) -> None:
            with contextlib.suppress(InvalidEvent, InvalidRelease):
                head = Head.parse(Event.parse(raw_event), now=self.now)
                if (head.author, head.name) in keys:
                    heads[head.author, head.name].append(head)

        def wanted(models: Sequence[FoundModel]) -> Filter:
            names = tuple(dict.fromkeys(model.name for model in models))
            filters = self._filter(HEAD_KIND, models, "d", names)
            # nostr-sdk's relay looks up only the first name of a single author
            return replace(filters, tags={}) if len(names) > 1 == len(filters.authors) else filters

        await self._ask(batch, wanted, receive)
        return heads

    async def _read_revoked(self, batch: Sequence[FoundModel], heads: _Heads) -> Mapping[bytes, set[bytes]]:
        """Return the ids in the revocations of each author."""
        revoked: dict[bytes, set[bytes]] = defaultdict(set)

        def receive(_url: str, raw_event: Mapping[str, object]) -> None:
            with contextlib.suppress(InvalidEvent, InvalidRelease):
                revocation = Revocation.parse(Event.parse(raw_event), now=self.now)
                revoked[revocation.author] |= revocation.event_ids

        def wanted(models: Sequence[FoundModel]) -> Filter:
            named = (head.release_id for model in models for head in heads.get(model.key, ()))
            return self._filter(REVOCATION_KIND, models, "e", tuple(dict.fromkeys(each.hex() for each in named)))

        await self._ask([model for model in batch if model.key in heads], wanted, receive)
        return revoked

    def _filter(self, kind: int, models: Sequence[FoundModel], tag: str, values: tuple[str, ...]) -> Filter:
        authors = tuple(dict.fromkeys(model.author for model in models))
        return Filter(authors=authors, kinds=(kind,), tags={tag: values}, limit=self.reader.limits.page)

    async def _ask(
        self, models: Sequence[FoundModel], wanted: Callable[[Sequence[FoundModel]], Filter], on_event: OnRelayEvent
    ) -> None:
        """Ask for events of models, and in halves where others of their authors may have displaced them."""
        if not models:
            return
        filters = dict.fromkeys(self.reader.pool.urls, wanted(models))
        pages = await self.reader.read(filters, self._budgets, on_event)
        if len(models) > 1 and any(page.events >= LEAST_CUT for page in pages.values()):
            for half in (models[: len(models) // 2], models[len(models) // 2 :]):
                await self._ask(half, wanted, on_event)

    async def _gather_releases(self, ids: Iterable[bytes]) -> dict[bytes, Release]:
        releases: dict[bytes, Release] = {}

        def accept(url: str, raw_event: Mapping[str, object]) -> bool:
            try:
                event = Event.parse(raw_event)
            except InvalidEvent:
                return False
            with contextlib.suppress(InvalidRelease):
                release = Release.parse(event, now=self.now)
                releases[release.id] = release
                self.candidates.note(release, url)
            return True

        await self.reader.pool.gather(dict.fromkeys(ids), accept, patient=False)
        return releases

    async def _readable(self, models: Sequence[FoundModel]) -> list[FoundModel]:
        """Return the models whose manifest begins on a relay; a manifest of one event is checked as a whole."""
        found: dict[bytes, Event] = {}
        for ids in batched(dict.fromkeys(model.manifest_ids[0] for model in models), IDS_PER_REQUEST):
            events, _ = await gather_signed(self.reader.pool, ids, patient=False)
            found |= events
        return [model for model in models if _begins_manifest(model, found.get(model.manifest_ids[0]))]


def _agrees(head: Head, models: Mapping[bytes, FoundModel], releases: Mapping[bytes, Release]) -> bool:
    if model := models.get(head.release_id):
        return model.is_named_by(head)
    release = releases.get(head.release_id)
    return release is not None and head.names(release)


def _begins_manifest(model: FoundModel, event: Event | None) -> bool:
    if event is None or event.kind != CHUNK_KIND or event.pubkey != model.author:
        return False
    if len(model.manifest_ids) > 1:
        return True
    try:
        encoded = decode(event.content)
        manifest = Manifest.decode(encoded)
    except (InvalidChunk, InvalidManifest):
        return False
    return hashlib.sha256(encoded).digest() == model.manifest_sha256 and manifest.size == model.size
