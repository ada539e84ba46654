"""Carries one relay's share of events to it, at the pace it bears, until it has them. Does network I/O.

What was not answered is sent again: after a wait where the relay was too fast for, once it knows who is there where it
asked for that, and over a new connection where the old one broke. A relay that takes all that comes gets a second
connection for half of what is under way, so that it can check one event while it stores another.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from relay_client.allocation import Delivery
from relay_client.backoff import Backoff
from relay_client.connection import Connection
from relay_client.errors import PeerError, RelayRefused, TransportError
from relay_client.event import Event
from relay_client.rate_control import Pace, is_about_rate
from relay_client.session import Acknowledged, Noticed, Verdict

PATIENCE_S = 30.0  # with a relay that keeps failing and takes nothing in between
WORTH_HELP = 64  # events that wait, for a second connection
_LOOK_S = 0.01  # until the first connection has made room for the second
_FAILURES = 3  # times that one event may meet an error of the relay's own

Open = Callable[[str], Awaitable[Connection]]  # raises TransportError
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


@dataclass(slots=True, kw_only=True)
class Courier:
    """One relay's worker: `run` until the `Delivery` has no more for it."""

    url: str
    connection: Connection
    reopen: Open  # in place of the connection
    open_second: Open
    pace: Pace
    delivery: Delivery
    event: Callable[[int], Event]
    report: RelayReport
    on_taken: OnTaken
    first: "Courier | None" = None  # whom this one helps
    _second: "Courier | None" = field(default=None, init=False)
    _helper: asyncio.Task[None] | None = field(default=None, init=False)
    _under_way: dict[bytes, _Sent] = field(default_factory=dict, init=False)  # by event id
    _failures: Counter[int] = field(default_factory=Counter, init=False)  # by the event's number
    _failing_since: float = field(default=0.0, init=False)
    _taken_then: int = field(default=-1, init=False)  # when it began to fail
    _backoff: Backoff = field(default_factory=Backoff, init=False)

    async def run(self) -> None:
        """Deliver; raises TransportError or PeerError when this relay is of no more use, and what `event` raises."""
        started = _now()
        try:
            while True:
                try:
                    await self._carry()
                    if self._second and self._helper:
                        await self._helper
                    if not self.delivery.has_work(self.url):
                        return
                except RelayRefused:
                    raise
                except TransportError as error:
                    self._take_back()
                    await self._reconnect(error)
        finally:
            self._take_back()
            if self._helper:
                self._helper.cancel()
                await asyncio.gather(self._helper, return_exceptions=True)
            self.report.seconds += _now() - started

    async def assist(self) -> None:
        """Deliver a part beside the first connection, and close this one; raises at the first trouble."""
        try:
            await self._carry()
        finally:
            self._take_back()
            await self.connection.close()

    async def _help(self) -> None:
        """Carry a part over a second connection; where that fails, all goes over the first."""
        with contextlib.suppress(TransportError, PeerError):
            self._second = replace(self, connection=await self.open_second(self.url), first=self)
            await self._second.assist()

    @property
    def _needs_help(self) -> bool:
        return (
            self.pace.is_steady and not (self.first or self._helper) and self.delivery.waiting(self.url) >= WORTH_HELP
        )

    @property
    def under_way(self) -> int:
        """Events sent over this connection and not yet answered."""
        return len(self._under_way)

    @property
    def _window(self) -> int:
        """Events that may be under way over this connection: with the other one's, no more than the relay bears."""
        whole = self.pace.window
        half = whole // 2 if self.pace.is_steady else 0
        if self.first:
            return min(half, whole - self.first.under_way)
        return whole - half if self._helper and not self._helper.done() else whole

    async def _carry(self) -> None:
        while True:
            await self._fill()
            if self._under_way:
                await self._heed(await self.connection.answers())
            elif not self.delivery.has_work(self.url) or (self.first and not self.pace.is_steady):
                return
            else:
                await asyncio.sleep(max(_LOOK_S, self.pace.wait_s(_now())))

    async def _fill(self) -> None:
        """Send as much as may be under way."""
        while (
            self.connection.has_room
            and len(self._under_way) < self._window
            and not self.pace.wait_s(_now())
            and (number := self.delivery.next(self.url)) is not None
        ):
            try:
                event = self.event(number)
            except BaseException:
                self.delivery.give_back(self.url, number)
                raise
            self._under_way[event.id] = _Sent(number=number, at=_now(), identified=self.connection.identified)
            await self.connection.send(event)

    async def _heed(self, said: list[Acknowledged | Noticed]) -> None:
        """Draw the consequences of what the relay said; raises RelayRefused."""
        refusal = who = ""
        for words in said:
            if isinstance(words, Acknowledged):
                if self._settle(words):
                    refusal = refusal or f"{self.url}: refused an event: {words.reason or 'no reason given'}"
                elif words.verdict is Verdict.IDENTIFY:
                    who = words.reason
            elif is_about_rate(words.text):
                self.pace.limited(sent_at=_now(), now=_now())
        if refusal:
            raise RelayRefused(refusal)
        if who and not self.connection.identified:
            await self.connection.identify(who)

    def _settle(self, answer: Acknowledged) -> bool:
        """Note what became of one event; True if it was refused for good."""
        sent = self._under_way.pop(answer.event_id)
        if answer.verdict in {Verdict.TAKEN, Verdict.DUPLICATE}:
            self._count(sent.number, answer.verdict)
            return False
        self.delivery.give_back(self.url, sent.number)
        if answer.verdict is Verdict.IDENTIFY:
            refused = sent.identified
        elif answer.verdict is Verdict.REFUSED:
            refused = True
        else:
            self.pace.limited(sent_at=sent.at, now=_now())
            self._failures[sent.number] += answer.verdict is Verdict.FAILED
            refused = self.pace.is_hopeless or self._failures[sent.number] >= _FAILURES
        self.report.refused += refused
        return refused

    def _count(self, number: int, verdict: Verdict) -> None:
        self.pace.taken()
        if verdict is Verdict.TAKEN:
            self.report.accepted += 1
        else:
            self.report.duplicate += 1
        self.delivery.took(self.url, number)
        self.on_taken(self.url, number)
        if self._needs_help:
            self._helper = asyncio.create_task(self._help(), name=f"help deliver to {self.url}")

    def _take_back(self) -> None:
        for sent in self._under_way.values():
            self.delivery.give_back(self.url, sent.number)
        self._under_way.clear()

    async def _reconnect(self, failure: TransportError) -> None:
        """Open a new connection, with waits in between; raises the last failure when patience is at its end."""
        while self.delivery.has_work(self.url):  # a helper may have done it meanwhile
            if self._taken_then != (taken := self.report.accepted + self.report.duplicate):
                self._taken_then, self._failing_since = taken, _now()
                self._backoff.reset()
            if _now() - self._failing_since >= PATIENCE_S:
                raise failure
            await asyncio.sleep(self._backoff.next())
            try:
                self.connection = await self.reopen(self.url)
            except TransportError as error:
                failure = error
            else:
                return


def _now() -> float:
    return asyncio.get_running_loop().time()
