"""Many relays as one: send events to all of them, gather events from any of them. Does network I/O."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence

from relay_client.allocation import Allocation
from relay_client.backoff import Backoff
from relay_client.errors import PeerError, RelayRefused, RelayTimeout, TransportError
from relay_client.event import Event
from relay_client.gather import BY_ID, AcceptEvent, KeyLookup, gather_events
from relay_client.pool_queries import PoolQueries
from relay_client.relay_status import RelayStatus
from relay_client.sender import OnAccepted, RelaySender, run_senders

_RECONNECTS = 3  # attempts without progress to gather the rest from relays whose connection broke
_READ_RETRIES = 6  # of reading what a relay accepted


class Pool(PoolQueries):
    """Open connections to several relays; an async context manager.

    Raises CallerError if an address is wrong; entering raises TransportError if no relay can be reached. A relay that
    fails later is dropped; `reports` has the reason.

    Args:
        urls: Addresses of the relays; two spellings of one count once.
        signer: Authenticates (NIP-42) at relays that require it, except those known from hints.
        hints: Untrusted addresses, used only if the relays above lack something.
        wait_for_all: If false, entering waits only a short time for the other relays once one is connected (they are
            used when they are), and questions do so once one has answered. If true, relays that are slow to answer are
            waited for longer, and then dropped.
        timeouts: How long to wait for relays, and between attempts.
    """

    async def publish(self, events: Iterable[tuple[Event, Sequence[str]]]) -> None:
        """Send each event to the relays given with it, and wait for every answer; `reports` has the counts."""
        listed, urls = list(events), self.urls
        elsewhere = {url: {number for number, (_, targets) in enumerate(listed) if url not in targets} for url in urls}
        allocation = Allocation(urls, [len(urls)] * len(listed), stored=elsewhere)
        await self.send(allocation, lambda number: listed[number][0])

    async def send(
        self,
        allocation: Allocation,
        make_event: Callable[[int], Event],
        on_accepted: OnAccepted = lambda _url, _number: None,
    ) -> None:
        """Send each relay its share, as fast as it accepts events; `reports` has the counts.

        A relay that refuses an event or keeps failing is dropped, and its share moves to the others. So is one that
        owes an answer for long when another has taken its share.

        Args:
            allocation: Which relay gets which event numbers.
            make_event: Makes the event of a number; called once per relay, and again for each retry.
            on_accepted: Called with (relay, number) of each event that is stored.

        Raises:
            Exception: Whatever `make_event` and `on_accepted` raise, and nothing else.
        """
        for url in set(allocation.relays).difference(self.urls):
            allocation.drop(url, keeps=False)
        senders = {url: self._sender(url, allocation, make_event, on_accepted) for url in allocation.relays}

        def fail(url: str, error: TransportError | PeerError) -> None:
            self._relays[url].fail(RelayStatus.DROPPED, error)

        await run_senders(senders, allocation, on_failure=fail, straggler_s=self.timeouts.straggler_s)

    async def wait_until_readable(self, find_readable: Callable[[], Awaitable[set[str]]]) -> set[str]:
        """Wait until every relay returns what it accepted; some accept an event before it can be read, or lose it.

        Args:
            find_readable: Asks relays for the events; returns the addresses of those that have them.

        Returns:
            The relays that never did (unconfirmed).
        """
        wait_s = self.timeouts.readable_first_s
        for _ in range(_READ_RETRIES):
            readable = await find_readable()
            if readable.issuperset(self.urls):
                return set()
            await asyncio.sleep(wait_s)
            wait_s *= 2
        readable = await find_readable()
        return set(self.urls) - readable

    @property
    def owes_answers(self) -> bool:
        """True if a relay was not waited for, or lost its connection: asking again may bring more."""
        return bool(self._late or self._disconnected())

    @property
    def lacking(self) -> str:
        """Beginning of an error about something that is missing."""
        return "no relay has"

    @property
    def advice(self) -> str:
        """What to do about something that is missing."""
        return "run it again later"

    async def gather(
        self, keys: Iterable[bytes], accept: AcceptEvent, lookup: KeyLookup = BY_ID, *, patient: bool = True
    ) -> list[bytes]:
        """Fetch events by key from all relays at once, until each arrived somewhere.

        Relays whose connection broke are reconnected, and hints followed, only if the others lack something. Unless
        the pool waits for all relays, slow ones are waited for only if the hints lack something too. A relay that
        sends an invalid event is asked last from then on (`misbehaving`).

        Args:
            keys: Wanted keys of 32 bytes each: event ids, or hashes (see `lookup`).
            accept: Called for each unverified event; returns whether it is a wanted one, verified and kept.
            lookup: How the keys are turned into filters, and events back into keys.
            patient: Wait for slow relays, and reconnect lost ones, if the others lack something. Otherwise another
                call may do so (`owes_answers`).

        Returns:
            The keys that did not arrive.

        Raises:
            Exception: Whatever `accept` raises.
        """
        settle_s = self._settle_s
        patient = patient or self._wait_for_all
        missing = await self._gather(self.urls, [key.hex() for key in keys], accept, lookup, settle_s)
        if missing and (patient or not self.urls):
            missing = await self._gather_from_lost(missing, accept, lookup, settle_s)
        if missing and (joined := await self.connect_hints()):
            missing = await self._gather(joined, missing, accept, lookup, settle_s)
        if missing and patient and (late := [url for url in self.urls if url in self._late]):
            missing = await self._gather(late, missing, accept, lookup, math.inf)
        return [bytes.fromhex(key) for key in missing]

    def _sender(
        self, url: str, allocation: Allocation, make_event: Callable[[int], Event], on_accepted: OnAccepted
    ) -> RelaySender:
        return RelaySender(
            url=url,
            connection=self._connection(url),
            reopen=self._reopen,
            open_second=self._connect,
            rate_control=self._relays[url].rate_control,
            allocation=allocation,
            make_event=make_event,
            counts=self._relays[url].counts,
            on_accepted=on_accepted,
            timeouts=self.timeouts,
        )

    async def _gather(
        self, urls: Sequence[str], keys: Sequence[str], accept: AcceptEvent, lookup: KeyLookup, settle_s: float
    ) -> list[str]:
        def fail(url: str, error: TransportError | PeerError) -> None:
            broke = isinstance(error, TransportError) and not isinstance(error, RelayRefused | RelayTimeout)
            self._relays[url].fail(RelayStatus.DISCONNECTED if broke else RelayStatus.DROPPED, error)

        missing = await gather_events(
            [self._connection(url) for url in urls],
            keys,
            accept,
            lookup=lookup,
            reputation=self._reputation,
            on_failure=fail,
            endgame_s=self.timeouts.endgame_s,
            settle_s=settle_s,
        )
        if self._wait_for_all:
            self._leave_out(self._late & set(self.urls))
        return missing

    async def _gather_from_lost(
        self, missing: Sequence[str], accept: AcceptEvent, lookup: KeyLookup, settle_s: float
    ) -> list[str]:
        """Reconnect relays whose connection broke, and gather from them; drop those that stay lost."""
        attempts, backoff, missing = _RECONNECTS, Backoff(self.timeouts), list(missing)
        while missing and attempts and self._disconnected():
            await asyncio.sleep(backoff.next())
            before, attempts = len(missing), attempts - 1
            missing = await self._gather(await self._reconnect_lost(), missing, accept, lookup, settle_s)
            if len(missing) < before:
                attempts, backoff = _RECONNECTS, Backoff(self.timeouts)
        for relay in self._disconnected():
            relay.status = RelayStatus.DROPPED
        return missing
