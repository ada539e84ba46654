"""Search for models on relays.

Releases are read in pages, those of trusted and of followed authors on their own, so that no flood displaces them. A
model is listed if a head names its release, no revocation does, and a relay returns the beginning of its manifest. Does
network I/O through a pool.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from distribution.errors import InvalidRelease
from distribution.event_tags import MAX_FUTURE_S
from distribution.events import RELEASE_KIND, TOPIC, Release
from distribution.paged_reader import DEFAULT_READ_LIMITS, PagedReader, ReadLimits
from distribution.search_checks import ResultChecks
from distribution.search_results import Candidates, FoundModel, KnownAuthors, ReadCard, SearchQuery
from relay_client.batches import batched
from relay_client.errors import InvalidEvent
from relay_client.event import Event, HashedEvent
from relay_client.filter import Filter
from relay_client.hexadecimal import parse_hex
from relay_client.pool import Pool

_AUTHORS_PER_REQUEST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Models that were found, the best first."""

    models: Sequence[FoundModel]
    more: int = 0  # further releases that match; not all of them need be readable
    crowded: Collection[bytes] = ()  # authors of listed models who have more
    incomplete: Sequence[str] = ()  # why something may be missing, a line each
    claimed_names: Mapping[bytes, str] = field(default_factory=dict)  # of authors, in their profiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Searcher:
    """A search on the relays of an open pool."""

    pool: Pool
    query: SearchQuery
    known: KnownAuthors
    read_card: ReadCard
    now: int  # seconds since 1970
    word_relays: Collection[str] = ()  # URLs of relays that search by words (NIP-50)
    limits: ReadLimits = DEFAULT_READ_LIMITS

    async def search(self) -> SearchResult:
        """Return the models that match, as many as the query asks for, and why some may be missing."""
        reader = PagedReader(self.pool, self.limits)
        candidates = Candidates(self.query, self.known, self.read_card)
        await reader.within_limit(self._scan(reader, candidates), "reading the releases")
        ranked = candidates.ranked()
        checks = ResultChecks(reader, candidates, self.now)
        await reader.within_limit(checks.run(ranked), "checking the releases")
        passed = candidates.sorted(checks.listed)
        failed = self.pool.failure_summary()
        return SearchResult(
            models=[candidates.complete(model) for model in passed[: self.query.limit]],
            more=len(ranked) - checks.checked + max(0, len(passed) - self.query.limit),
            crowded=(candidates.crowded | checks.crowded) & {model.author for model in checks.listed},
            incomplete=[*reader.incomplete, *([failed] if failed else [])],
        )

    async def _scan(self, reader: PagedReader, candidates: Candidates) -> None:
        """Offer the releases that relays return to `candidates`."""

        def receive(url: str, raw_event: Mapping[str, object]) -> None:
            with contextlib.suppress(InvalidEvent, InvalidRelease):
                claimed_id = parse_hex(raw_event.get("id"), 32)
                if claimed_id and candidates.has(claimed_id):  # its signature was verified
                    candidates.add_relay(HashedEvent.parse(raw_event).id, url)
                else:
                    candidates.offer(Release.parse(Event.parse(raw_event), now=self.now), url)

        for filters, may_fail in self._questions():
            await reader.read_pages(filters, receive, may_fail=may_fail)

    def _questions(self) -> Iterator[tuple[Mapping[str, Filter], bool]]:
        """Yield the filters of each question's first page, by relay, and whether a relay may refuse it."""
        query = self.query
        topic = {"t": (query.tag,)} if query.tag else {}
        until, limit = self.now + MAX_FUTURE_S, self.limits.page
        wanted = Filter(kinds=(RELEASE_KIND,), tags=topic, since=query.since, until=until, limit=limit)
        groups = [self.known.trusted, self.known.followed - self.known.trusted]
        if query.author:  # the names of trusted authors' models show what imitates them
            yield dict.fromkeys(self.pool.urls, replace(wanted, authors=(query.author,))), False
            groups = [] if query.author in self.known.trusted else groups[:1]
        for group in groups:
            for authors in batched(sorted(group), _AUTHORS_PER_REQUEST):
                yield dict.fromkeys(self.pool.urls, replace(wanted, authors=authors)), True
        if query.author:
            return
        wanted = replace(wanted, tags=topic or {"t": (TOPIC,)})
        if query.words:
            by_words = replace(wanted, search=" ".join(query.words))
            yield {url: by_words for url in self.pool.urls if url in self.word_relays}, True
        yield dict.fromkeys(self.pool.urls, wanted), False
