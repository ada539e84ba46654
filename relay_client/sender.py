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

from relay_client.allocation import Allocation
from relay_client.backoff import Backoff
from relay_client.connection import Connection
from relay_client.errors import PeerError, RelayRefused, TransportError
from relay_client.event import Event
from relay_client.rate_control import RateControl, mentions_rate_limit
from relay_client.session import Acknowledged, NoticeReceived, Verdict

PATIENCE_S = 30.0  # with a relay that keeps failing and takes nothing in between
WORTH_HELP = 64  # events that wait, for a second connection
_LOOK_S = 0.01  # until the first connection has made room for the second
_FAILURES = 3  # times that one event may meet an error of the relay's own

Open = Callable[[str], Awaitable[Connection]]  # raises TransportError
OnAccepted = Callable[[str, int], None]  # (relay, number of the event)


@dataclass(slots=True)
class RelayReport:
    """What became of one relay. `reason` is empty while it works."""

    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    seconds: float = 0.0  # spent on what it accepted
    reason: str = ""
    requirements: tuple[str, ...] = ()  # what the relay says it wants, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    number: int
    at: float  # loop time
    authenticated: bool  # the relay knew who sent it


@dataclass(slots=True, kw_only=True)
class RelaySender:
    """One relay's worker: `run` until the `Allocation` has no more for it."""

    url: str
    connection: Connection
    reopen: Open  # in place of the connection
    open_second: Open
    rate_control: RateControl
    allocation: Allocation
    make_event: Callable[[int], Event]
    report: RelayReport
    on_accepted: OnAccepted
    first: "RelaySender | None" = None  # whom this one helps
    _second: "RelaySender | None" = field(default=None, init=False)
    _helper: asyncio.Task[None] | None = field(default=None, init=False)
    _in_flight: dict[bytes, _Sent] = field(default_factory=dict, init=False)  # by event id
    _failures: Counter[int] = field(default_factory=Counter, init=False)  # by the event's number
    _failing_since: float = field(default=0.0, init=False)
    _accepted_then: int = field(default=-1, init=False)  # when it began to fail
    _backoff: Backoff = field(default_factory=Backoff, init=False)

    async def run(self) -> None:
        """Send until the share is done; raises TransportError, PeerError, and what `make_event` raises."""
        started = _now()
        try:
            while True:
                try:
                    await self._send_share()
                    if self._second and self._helper:
                        await self._helper
                    if not self.allocation.has_work(self.url):
                        return
                except RelayRefused:
                    raise
                except TransportError as error:
                    self._requeue_in_flight()
                    await self._reconnect(error)
        finally:
            self._requeue_in_flight()
            if self._helper:
                self._helper.cancel()
                await asyncio.gather(self._helper, return_exceptions=True)
            self.report.seconds += _now() - started

    async def assist(self) -> None:
        """Deliver a part beside the first connection, and close this one; raises at the first trouble."""
        try:
            await self._send_share()
        finally:
            self._requeue_in_flight()
            await self.connection.close()

    async def _help(self) -> None:
        """Carry a part over a second connection; where that fails, all goes over the first."""
        with contextlib.suppress(TransportError, PeerError):
            self._second = replace(self, connection=await self.open_second(self.url), first=self)
            await self._second.assist()

    @property
    def _needs_help(self) -> bool:
        return (
            self.rate_control.is_steady
            and not (self.first or self._helper)
            and self.allocation.waiting(self.url) >= WORTH_HELP
        )

    @property
    def in_flight(self) -> int:
        """Events sent over this connection and not yet answered."""
        return len(self._in_flight)

    @property
    def _window(self) -> int:
        """Events that may be under way over this connection: with the other one's, no more than the relay bears."""
        whole = self.rate_control.window
        half = whole // 2 if self.rate_control.is_steady else 0
        if self.first:
            return min(half, whole - self.first.in_flight)
        return whole - half if self._helper and not self._helper.done() else whole

    async def _send_share(self) -> None:
        while True:
            await self._fill_window()
            if self._in_flight:
                await self._handle_answers(await self.connection.answers())
            elif not self.allocation.has_work(self.url) or (self.first and not self.rate_control.is_steady):
                return
            else:
                await asyncio.sleep(max(_LOOK_S, self.rate_control.wait_s(_now())))

    async def _fill_window(self) -> None:
        """Send as much as may be under way."""
        while (
            self.connection.has_room
            and len(self._in_flight) < self._window
            and not self.rate_control.wait_s(_now())
            and (number := self.allocation.next(self.url)) is not None
        ):
            try:
                event = self.make_event(number)
            except BaseException:
                self.allocation.requeue(self.url, number)
                raise
            self._in_flight[event.id] = _Sent(number=number, at=_now(), authenticated=self.connection.authenticated)
            await self.connection.send(event)

    async def _handle_answers(self, said: list[Acknowledged | NoticeReceived]) -> None:
        """Draw the consequences of what the relay said; raises RelayRefused."""
        refusal = who = ""
        for words in said:
            if isinstance(words, Acknowledged):
                if self._record(words):
                    refusal = refusal or f"{self.url}: refused an event: {words.reason or 'no reason given'}"
                elif words.verdict is Verdict.AUTH_REQUIRED:
                    who = words.reason
            elif mentions_rate_limit(words.text):
                self.rate_control.on_rate_limited(sent_at=_now(), now=_now())
        if refusal:
            raise RelayRefused(refusal)
        if who and not self.connection.authenticated:
            await self.connection.authenticate(who)

    def _record(self, answer: Acknowledged) -> bool:
        """Note what became of one event; True if it was refused for good."""
        sent = self._in_flight.pop(answer.event_id)
        if answer.verdict in {Verdict.ACCEPTED, Verdict.DUPLICATE}:
            self._count(sent.number, answer.verdict)
            return False
        self.allocation.requeue(self.url, sent.number)
        if answer.verdict is Verdict.AUTH_REQUIRED:
            refused = sent.authenticated
        elif answer.verdict is Verdict.REFUSED:
            refused = True
        else:
            self.rate_control.on_rate_limited(sent_at=sent.at, now=_now())
            self._failures[sent.number] += answer.verdict is Verdict.FAILED
            refused = self.rate_control.exhausted or self._failures[sent.number] >= _FAILURES
        self.report.refused += refused
        return refused

    def _count(self, number: int, verdict: Verdict) -> None:
        self.rate_control.on_accepted()
        if verdict is Verdict.ACCEPTED:
            self.report.accepted += 1
        else:
            self.report.duplicate += 1
        self.allocation.mark_stored(self.url, number)
        self.on_accepted(self.url, number)
        if self._needs_help:
            self._helper = asyncio.create_task(self._help(), name=f"help deliver to {self.url}")

    def _requeue_in_flight(self) -> None:
        for sent in self._in_flight.values():
            self.allocation.requeue(self.url, sent.number)
        self._in_flight.clear()

    async def _reconnect(self, failure: TransportError) -> None:
        """Open a new connection, with waits in between; raises the last failure when patience is at its end."""
        while self.allocation.has_work(self.url):  # a helper may have done it meanwhile
            if self._accepted_then != (taken := self.report.accepted + self.report.duplicate):
                self._accepted_then, self._failing_since = taken, _now()
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
