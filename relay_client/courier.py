"""Carries one relay's share of events to it, at the pace it bears, until it has them. Does network I/O.

What was not answered is sent again: after a wait where the relay was too fast for, once it knows who is there where it
asked for that, and over a new connection where the old one broke.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from relay_client.backoff import Backoff
from relay_client.connection import Connection
from relay_client.delivery import Delivery
from relay_client.errors import Refused, TransportError
from relay_client.event import Event
from relay_client.pacing import Pace, is_about_rate
from relay_client.session import Acknowledged, Noticed, Verdict

PATIENCE_S = 30.0  # with a relay that keeps failing and takes nothing in between
_FAILURES = 3  # times that one event may meet an error of the relay's own

OnTaken = Callable[[str, int], None]  # (relay, number of the event)


@dataclass(slots=True)
class RelayReport:
    """What became of one relay. `reason` is empty while it works."""

    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    seconds: float = 0.0  # spent on what it accepted
    reason: str = ""
    demands: tuple[str, ...] = ()  # what the relay says it wants, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    number: int
    at: float  # loop time
    identified: bool  # the relay knew who sent it


class Courier:
    """One relay's worker: `run` until the `Delivery` has no more for it."""

    def __init__(
        self,
        url: str,
        *,
        connection: Connection,
        reopen: Callable[[str], Awaitable[Connection]],
        pace: Pace,
        delivery: Delivery,
        event: Callable[[int], Event],
        report: RelayReport,
        on_taken: OnTaken,
    ) -> None:
        self._url = url
        self._connection = connection
        self._reopen = reopen
        self._pace = pace
        self._delivery = delivery
        self._event = event
        self._report = report
        self._on_taken = on_taken
        self._under_way: dict[bytes, _Sent] = {}  # by event id
        self._failures: Counter[int] = Counter()  # by the event's number
        self._failing_since: float | None = None
        self._backoff = Backoff()

    async def run(self) -> None:
        """Deliver; raises TransportError or PeerError when this relay is of no more use, and what `event` raises."""
        started = _now()
        try:
            while self._delivery.has_work(self._url):
                try:
                    await self._carry()
                except Refused:
                    raise
                except TransportError as error:
                    self._take_back()
                    await self._reconnect(error)
        finally:
            self._take_back()
            self._report.seconds += _now() - started

    async def _carry(self) -> None:
        while True:
            await self._fill()
            if self._under_way:
                await self._heed(await self._connection.answers())
            elif wait_s := self._pace.wait_s(_now()):
                await asyncio.sleep(wait_s)
            elif not self._delivery.has_work(self._url):
                return

    async def _fill(self) -> None:
        """Send as much as may be under way."""
        while (
            self._connection.has_room
            and len(self._under_way) < self._pace.window
            and not self._pace.wait_s(_now())
            and (number := self._delivery.next(self._url)) is not None
        ):
            try:
                event = self._event(number)
            except BaseException:
                self._delivery.give_back(self._url, number)
                raise
            self._under_way[event.id] = _Sent(number=number, at=_now(), identified=self._connection.identified)
            await self._connection.send(event)

    async def _heed(self, said: list[Acknowledged | Noticed]) -> None:
        """Draw the consequences of what the relay said; raises Refused."""
        refusal = who = ""
        for words in said:
            if isinstance(words, Acknowledged):
                if self._settle(words):
                    refusal = refusal or f"{self._url}: refused an event: {words.reason or 'no reason given'}"
                elif words.verdict is Verdict.IDENTIFY:
                    who = words.reason
            elif is_about_rate(words.text):
                self._pace.limited(sent_at=_now(), now=_now())
        if refusal:
            raise Refused(refusal)
        if who and not self._connection.identified:
            await self._connection.identify(who)

    def _settle(self, answer: Acknowledged) -> bool:
        """Note what became of one event; True if it was refused for good."""
        sent = self._under_way.pop(answer.event_id)
        if answer.verdict in {Verdict.TAKEN, Verdict.DUPLICATE}:
            self._count(sent.number, answer.verdict)
            return False
        self._delivery.give_back(self._url, sent.number)
        if answer.verdict is Verdict.IDENTIFY:
            refused = sent.identified
        elif answer.verdict is Verdict.REFUSED:
            refused = True
        else:
            self._pace.limited(sent_at=sent.at, now=_now())
            self._failures[sent.number] += answer.verdict is Verdict.FAILED
            refused = self._pace.is_hopeless or self._failures[sent.number] >= _FAILURES
        self._report.refused += refused
        return refused

    def _count(self, number: int, verdict: Verdict) -> None:
        self._pace.taken()
        self._failing_since = None
        if verdict is Verdict.TAKEN:
            self._report.accepted += 1
        else:
            self._report.duplicate += 1
        self._delivery.took(self._url, number)
        self._on_taken(self._url, number)

    def _take_back(self) -> None:
        for sent in self._under_way.values():
            self._delivery.give_back(self._url, sent.number)
        self._under_way.clear()

    async def _reconnect(self, failure: TransportError) -> None:
        """Open a new connection, with waits in between; raises the last failure when patience is at its end."""
        if self._failing_since is None:
            self._failing_since = _now()
            self._backoff.reset()
        while _now() - self._failing_since < PATIENCE_S:
            await asyncio.sleep(self._backoff.next())
            try:
                self._connection = await self._reopen(self._url)
            except TransportError as error:
                failure = error
            else:
                return
        raise failure


def _now() -> float:
    return asyncio.get_running_loop().time()
