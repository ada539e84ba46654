"""Sending of a planned release to relays, and the check that they return it. Does network I/O through a pool."""

import contextlib
import functools
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from distribution.clock import clock_advice
from distribution.confirm import ChunkCheck
from distribution.errors import NotPublished
from distribution.events import Release
from distribution.plan import Plan
from distribution.receipts import Receipts
from relay_client.errors import InvalidEvent
from relay_client.event import Event, EventSigner, Signer
from relay_client.filter import Filter
from relay_client.pool import Pool

_SAMPLE = 8  # chunks to ask a relay for before its receipts are believed
_NOT_ADMITTED = ("blocked:", "restricted:")  # prefixes of NIP-01
_SIGNED_KEPT = 32  # signed events cached for the other relays, 2 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSender:
    """Sends the events of one release, without its head, to the relays of a pool.

    Args:
        pool: Open pool.
        key: Signs as the author.
        chunk_key: Signs the chunks of files, as they are sent; None: the plan has none.
        is_local: Whether the author could sign the chunks.
        now: Clock, in seconds since 1970.
        plan: The events.
        receipts: Receipts of the release.
        copies: Relays that each chunk goes to; None: all.
        check: Ignore the receipts, and ask the relays for every event.
        on_progress: Called with the bytes sent so far, of `plan.size`.
    """

    pool: Pool
    key: EventSigner
    chunk_key: Signer | None
    is_local: bool
    now: Callable[[], int]
    plan: Plan
    receipts: Receipts
    copies: int | None
    check: bool
    on_progress: Callable[[int], None]

    async def send(self, *, resumed: bool) -> Release:
        """Send each relay the events that it lacks, and return the release as it was read back.

        Args:
            resumed: Whether relays may have events of an earlier run.

        Raises:
            NotPublished: No relay accepted and returned all of it.
            SignerRefused, InvalidSigned: The author's signer did not sign.
        """
        plan = self.plan
        held = await self._stored() if resumed else {}
        allocation = plan.allocation(self.pool.urls, copies=self.copies, held=held)
        announced = await self._sign_announcement(held)  # while the author is here to approve
        copies_left, done = allocation.pending, 0

        @functools.lru_cache(maxsize=_SIGNED_KEPT)
        def signed(number: int) -> Event:
            if self.chunk_key and number < plan.chunks:
                return plan.events[number].sign(self.chunk_key)
            return announced[number]

        def accepted(url: str, number: int) -> None:
            nonlocal done
            self.receipts.add(url, plan.events[number].id)
            sent = plan.size * (copies_left - allocation.pending) // copies_left
            done = max(done, sent)  # an event that moves to another relay is pending again
            self.on_progress(done)

        check = ChunkCheck(
            [event.id for event in plan.events[: plan.chunks]],
            whole=self.check,
            confirmed=held if self.check else {},
            on_lost=self.receipts.forget,
        )
        while True:
            await self.pool.send(allocation, signed, accepted)
            if unplaced := len(allocation.unplaced):
                reasons = self.pool.failure_summary()
                failure = f"no relay accepted {unplaced:,} of {len(plan.events):,} events"
                raise NotPublished(f"{failure}: {reasons}{clock_advice(reasons)}{self._chunk_key_advice(reasons)}")
            check_reached(self.pool, "no relay accepted the whole release")
            if not await check.run(self.pool, allocation):
                continue
            release = await self._read_back()
            if set(allocation.relays) == set(self.pool.urls):  # otherwise the share of a dropped relay has to move
                return release

    async def _sign_announcement(self, held: Mapping[str, Container[int]]) -> dict[int, Event]:
        """Return the events of the manifest and the release that some relay lacks, signed, by their numbers."""
        numbers = range(self.plan.chunks, len(self.plan.events))
        lacking = [number for number in numbers if any(number not in held.get(url, ()) for url in self.pool.urls)]
        return {number: await self.plan.events[number].sign_by(self.key) for number in lacking}

    def _chunk_key_advice(self, reasons: str) -> str:
        """Return advice for relays that refuse unknown keys; empty if they did not, or if no such key signed."""
        is_unknown = self.chunk_key is not None and self.chunk_key.pubkey != self.key.pubkey
        if not is_unknown or not any(prefix in reasons for prefix in _NOT_ADMITTED):
            return ""
        own = "publish with --new-version --chunk-key author, or " if self.is_local else ""
        return (
            "; a throw-away key signed the chunks: if these relays admit listed keys only, "
            f"{own}send the files to a Blossom server with --server and --no-relay-chunks"
        )

    async def _stored(self) -> dict[str, set[int]]:
        """Return the numbers of the events that each relay has, from its receipts or else from a query.

        A relay that does not return a sample of what it accepted has lost its events; its receipts are discarded.
        """
        ids = [event.id for event in self.plan.events]
        known = {url: set[bytes]() if self.check else {*ids} & self.receipts.accepted_by(url) for url in self.pool.urls}
        sample = {url: self._sample([one for one in ids if one in taken]) for url, taken in known.items()}
        shown = await self.pool.stored_ids(sample)
        for url in known:
            if not shown.get(url, set()).issuperset(sample[url]):
                self.receipts.forget(url)
                known[url] = set()
        unknown = {url: [event_id for event_id in ids if event_id not in taken] for url, taken in known.items()}
        held = {}
        for url, found in (await self.pool.stored_ids(unknown)).items():
            for event_id in found:
                self.receipts.add(url, event_id)
            held[url] = {number for number, event_id in enumerate(ids) if event_id in found | known[url]}
            self.pool.note_duplicates(url, len(held[url]))
        return held

    def _sample(self, taken: Sequence[bytes]) -> list[bytes]:
        """Return a sample of the chunks that a relay accepted, spread over the release, and all the announcement."""
        chunks = [event_id for event_id in taken if event_id not in self.plan.announcement]
        return [*chunks[:: max(1, len(chunks) // _SAMPLE)], *taken[len(chunks) :]]

    async def _read_back(self) -> Release:
        """Wait until the relays return the announcement, and return the release as read back."""
        announcement = self.plan.announcement

        async def complete() -> set[str]:
            held = await self.pool.stored_ids(announcement)
            return {url for url, ids in held.items() if ids.issuperset(announcement)}

        await self._until_readable(complete)
        for _, raw_event in await self.pool.query(Filter(ids=(announcement[-1],), limit=1)):
            with contextlib.suppress(InvalidEvent):
                return Release.parse(Event.parse(raw_event), now=self.now())
        raise NotPublished("no relay returns the release")

    async def _until_readable(self, read: Callable[[], Awaitable[set[str]]]) -> None:
        """Wait until all relays return what they accepted; `read` asks which do. Drop those that never do."""
        for url in await self.pool.wait_until_readable(read):
            self.pool.drop(url, "accepted the release but does not return it")
        check_reached(self.pool, "no relay returns the release")


def check_reached(pool: Pool, failure: str) -> None:
    """Raise NotPublished, with `failure` and the relays' reasons, if no relay is in use any more."""
    if not pool.urls:
        raise NotPublished(f"{failure}: {pool.failure_summary()}")
