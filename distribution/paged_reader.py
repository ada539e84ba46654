"""Bounded reading of many events from relays: pages by time, and budgets of events, bytes and seconds for each relay.

Relays and what they return are untrusted: a relay can only waste its own budget. Does network I/O through a pool.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace

import orjson

from relay_client.filter import Filter
from relay_client.pool import Pool

LEAST_CUT = 100  # events from which an answer may be cut off; no common relay has a lower limit

OnRelayEvent = Callable[[str, Mapping[str, object]], None]  # gets a relay and an unverified event


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """What reading may cost, whatever relays return."""

    page: int = 500  # events of one request; common limit of relays
    events: int = 10_000  # of each relay for one question
    size: int = 32 << 20  # bytes of these events
    seconds: float = 20.0  # for each stage


DEFAULT_READ_LIMITS = ReadLimits()


@dataclass(slots=True)
class Budget:
    """What one relay may still send."""

    events: int
    size: int

    def spend(self, raw_event: Mapping[str, object]) -> bool:
        """Count an event; return whether the budget allows it."""
        self.events -= 1
        self.size -= len(orjson.dumps(raw_event))
        return not self.is_spent

    @property
    def is_spent(self) -> bool:
        """True if nothing more is read."""
        return self.events < 0 or self.size < 0


@dataclass(slots=True)
class Page:
    """What one relay claims to have sent for one request."""

    events: int = 0
    oldest: int | None = None  # seconds since 1970

    def add(self, raw_event: Mapping[str, object]) -> None:
        """Count an event."""
        self.events += 1
        created_at = raw_event.get("created_at")
        if type(created_at) is int and created_at >= 0:
            self.oldest = created_at if self.oldest is None else min(self.oldest, created_at)

    def next_until(self, until: int) -> int | None:
        """Return where the next page begins, None if this was the last one.

        A second with more events than a page is left in the end, so that a flood of one date hides nothing older.

        Args:
            until: Where this page began, in seconds since 1970.
        """
        if self.events < LEAST_CUT or self.oldest is None or not 0 < self.oldest <= until:
            return None
        return self.oldest if self.oldest < until else until - 1


@dataclass(slots=True)
class PagedReader:
    """Reads from the relays of an open pool within limits; `incomplete` has the reason if they cut something off."""

    pool: Pool
    limits: ReadLimits = DEFAULT_READ_LIMITS
    incomplete: dict[str, None] = field(default_factory=dict)  # reasons, a line each
    slow: set[str] = field(default_factory=set)  # relays that others did not wait for: they are not asked again

    def budgets(self) -> dict[str, Budget]:
        """Return the budgets of one question, by relay."""
        return {url: Budget(self.limits.events, self.limits.size) for url in self.pool.urls}

    async def read(
        self,
        filters: Mapping[str, Filter],
        budgets: Mapping[str, Budget],
        on_event: OnRelayEvent,
        *,
        may_fail: bool = False,
    ) -> Mapping[str, Page]:
        """Send one request to each relay whose budget is not spent.

        Args:
            filters: Filter for each relay.
            budgets: What each relay may still send.
            on_event: Called with each event.
            may_fail: Keep using a relay that refuses this request.
        """
        asked = filters.keys() & budgets.keys() - self.slow
        pages = {url: Page() for url in asked if not budgets[url].is_spent}

        def receive(url: str, raw_event: Mapping[str, object]) -> bool:
            pages[url].add(raw_event)
            if not budgets[url].spend(raw_event):
                self.incomplete[f"{url}: returns more events than a search reads"] = None
                return True
            on_event(url, raw_event)
            return False

        self.slow |= await self.pool.stream({url: filters[url] for url in pages}, receive, may_fail=may_fail)
        return pages

    async def read_pages(
        self, filters: Mapping[str, Filter], on_event: OnRelayEvent, *, may_fail: bool = False
    ) -> None:
        """Read page after page, the newest events first; each filter has a limit, and `until` where it begins."""
        budgets = self.budgets()
        while filters:
            pages = await self.read(filters, budgets, on_event, may_fail=may_fail)
            following = {url: page.next_until(filters[url].until or 0) for url, page in pages.items()}
            filters = {url: replace(filters[url], until=until) for url, until in following.items() if until}

    async def within_limit(self, work: Coroutine[None, None, None], stage: str) -> None:
        """Run a stage of the work, and end it when its time is over."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                await work
        except TimeoutError:
            self.incomplete[f"{stage} took more than {self.limits.seconds:.0f} s"] = None
