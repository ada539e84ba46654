"""What has events: relays of a pool, or a file. The part of `Pool` that reading needs. No I/O."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from relay_client.filter import Filter
from relay_client.gather import BY_ID, AcceptEvent, KeyLookup
from relay_client.relay_status import RelayReport
from relay_client.timeouts import Timeouts

Answer = tuple[str, Mapping[str, object]]  # relay or file, unverified event


class EventSource(Protocol):
    """Relays or a file to get events from; `Pool` documents the methods."""

    timeouts: Timeouts
    misbehaving: set[str]  # names of sources that sent an invalid event

    @property
    def urls(self) -> list[str]:
        """Names of the sources in use."""

    @property
    def reports(self) -> Mapping[str, RelayReport]:
        """Result at each source so far, by name."""

    @property
    def has_hints(self) -> bool:
        """True if hints are left that were not followed yet."""

    @property
    def owes_answers(self) -> bool:
        """True if asking again may bring more."""

    @property
    def lacking(self) -> str:
        """Beginning of an error about something that is missing: "no relay has"."""

    @property
    def advice(self) -> str:
        """What to do about something that is missing."""

    def failure_summary(self) -> str:
        """Return in one line why something may be missing; empty if nothing is known."""

    def add_hints(self, raw_urls: Iterable[str]) -> None:
        """Remember untrusted addresses of relays."""

    async def connect_hints(self) -> list[str]:
        """Connect to hints that are safe to follow; returns the addresses that could be reached."""

    async def query(self, wanted: Filter | Mapping[str, Filter]) -> list[Answer]:
        """Return the events that match a filter, unverified; filters may differ by source."""

    async def query_soon(
        self,
        wanted: Filter,
        *,
        enough: Callable[[Sequence[Answer]], bool],
        late: list[Answer],
        may_fail: bool = False,
    ) -> list[Answer]:
        """Return the events that match a filter, without waiting for slow relays."""

    async def gather(
        self, keys: Iterable[bytes], accept: AcceptEvent, lookup: KeyLookup = BY_ID, *, patient: bool = True
    ) -> list[bytes]:
        """Fetch events by key, and return the keys that did not arrive."""


def describe_lack(source: EventSource, what: str) -> str:
    """Return an error that something is missing, with the reasons of the source."""
    reasons = source.failure_summary()
    return f"{source.lacking} {what}{f' ({reasons})' if reasons else ''}"
