"""Publish worker that sends one relay its share of an allocation, as fast as it accepts. Does network I/O.

Unanswered events are sent again: after a wait if the relay limits the rate, after authentication if it requires that,
and over a new connection if the old one broke. A relay that never limits the rate gets a second connection for half of
the events in flight, so that it can verify one event while it stores another.
"""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from relay_client.allocation import Allocation
from relay_client.backoff import Backoff
from relay_client.connection import Connection
from relay_client.errors import PeerError, RelayRefused, RelayTimeout, TransportError
from relay_client.event import Event
from relay_client.outcomes import NoticeReceived, OkReceived, Verdict
from relay_client.rate_control import RateControl, mentions_rate_limit
from relay_client.relay_status import SendCounts
from relay_client.settle import TOO_SLOW
from relay_client.timeouts import Timeouts

MIN_FOR_SECOND = 64  # waiting events that are worth a second connection
_POLL_S = 0.01  # until the other connection has made room in the window
_MAX_FAILURES = 3  # times that the relay may answer one event with an error of its own

OpenConnection = Callable[[str], Awaitable[Connection]]  # gets the relay's address; raises TransportError
OnAccepted = Callable[[str, int], None]  # gets the relay's address and the number of the event
OnFailure = Callable[[str, TransportError | PeerError], None]  # gets the relay's address and the error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    number: int
    at: float  # loop time
    authenticated: bool  # at the time of sending


@dataclass(slots=True, kw_only=True)
class RelaySender:
    """Publish worker for one relay: `run` sends until the allocation has nothing more for it."""

    url: str
    connection: Connection
    reopen: OpenConnection  # replaces the connection
    open_second: OpenConnection
    rate_control: RateControl
    allocation: Allocation
    make_event: Callable[[int], Event]
    counts: SendCounts
    on_accepted: OnAccepted
    timeouts: Timeouts
    primary: "RelaySender | None" = None  # set if this one uses the second connection
    _secondary: "RelaySender | None" = field(default=None, init=False)
    _secondary_task: asyncio.Task[None] | None = field(default=None, init=False)
    _in_flight: dict[bytes, _Sent] = field(default_factory=dict, init=False)  # by event id
    _failures: Counter[int] = field(default_factory=Counter, init=False)  # by event number
    _failing_since: float = field(default=0.0, init=False)
    _answered_at: float = field(default=0.0, init=False)  # loop time of the last answer
    _accepted_then: int = field(default=-1, init=False)  # accepted events when the failures began
    _backoff: Backoff = field(init=False)

    def __post_init__(self) -> None:
        self._backoff = Backoff(self.timeouts)

    async def run(self) -> None:
        """Send until the share is done; raises TransportError, PeerError, and what `make_event` raises."""
        started = _now()
        try:
            while True:
                try:
                    await self._send_share()
                    if self._secondary and self._secondary_task:
                        await self._secondary_task
                    if not self.allocation.has_work(self.url):
                        return
                except RelayRefused:
                    raise
                except TransportError as error:
                    self._requeue_in_flight()
                    await self._reconnect(error)
        finally:
            self._requeue_in_flight()
            if self._secondary_task:
                self._secondary_task.cancel()
                await asyncio.gather(self._secondary_task, return_exceptions=True)
            self.counts.seconds += _now() - started

    async def run_secondary(self) -> None:
        """Send part of the share over the second connection, then close it; raises at the first failure."""
        try:
            await self._send_share()
        finally:
            self._requeue_in_flight()
            await self.connection.close()

    async def _use_second_connection(self) -> None:
        """Send over a second connection too; if that fails, everything goes over the first."""
        with contextlib.suppress(TransportError, PeerError):
            self._secondary = replace(self, connection=await self.open_second(self.url), primary=self)
            await self._secondary.run_secondary()

    @property
    def in_flight(self) -> int:
        """Number of events sent over this connection and not yet answered."""
        return len(self._in_flight)

    @property
    def owing_since(self) -> float:
        """Loop time since which the relay owes an answer; infinite if it owes none."""
        if not self._in_flight:
            return self._secondary.owing_since if self._secondary else math.inf
        return max(self._answered_at, min(sent.at for sent in self._in_flight.values()))

    @property
    def _wants_second(self) -> bool:
        return (
            self.rate_control.is_steady
            and not (self.primary or self._secondary_task)
            and self.allocation.waiting(self.url) >= MIN_FOR_SECOND
        )

    @property
    def _window(self) -> int:
        """Number of events that may be in flight here; both connections share the relay's window."""
        whole = self.rate_control.window
        half = whole // 2 if self.rate_control.is_steady else 0
        if self.primary:
            return min(half, whole - self.primary.in_flight)
        return whole - half if self._secondary_task and not self._secondary_task.done() else whole

    async def _send_share(self) -> None:
        while True:
            await self._fill_window()
            if self._in_flight:
                await self._handle_answers(await self.connection.answers())
            elif not self.allocation.has_work(self.url) or (self.primary and not self.rate_control.is_steady):
                return
            else:
                await asyncio.sleep(max(_POLL_S, self.rate_control.wait_s(_now())))

    async def _fill_window(self) -> None:
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

    async def _handle_answers(self, answers: list[OkReceived | NoticeReceived]) -> None:
        """Record answers, back off and authenticate as they demand; raises RelayRefused."""
        refusal = auth_reason = ""
        for answer in answers:
            if isinstance(answer, OkReceived):
                if self._record(answer):
                    refusal = refusal or f"{self.url}: refused an event: {answer.reason or 'no reason given'}"
                elif answer.verdict is Verdict.AUTH_REQUIRED:
                    auth_reason = answer.reason
            elif mentions_rate_limit(answer.text):
                self.rate_control.on_rate_limited(sent_at=_now(), now=_now())
        if refusal:
            raise RelayRefused(refusal)
        if auth_reason and not self.connection.authenticated:
            await self.connection.authenticate(auth_reason)

    def _record(self, answer: OkReceived) -> bool:
        """Record the answer to one event; returns True if the event was refused for good."""
        sent = self._in_flight.pop(answer.event_id)
        self._answered_at = _now()
        if answer.verdict in {Verdict.ACCEPTED, Verdict.DUPLICATE}:
            self._record_stored(sent.number, answer.verdict)
            return False
        self.allocation.requeue(self.url, sent.number)
        if answer.verdict is Verdict.AUTH_REQUIRED:
            refused = sent.authenticated
        elif answer.verdict is Verdict.REFUSED:
            refused = True
        else:
            self.rate_control.on_rate_limited(sent_at=sent.at, now=_now())
            self._failures[sent.number] += answer.verdict is Verdict.FAILED
            refused = self.rate_control.exhausted or self._failures[sent.number] >= _MAX_FAILURES
        self.counts.refused += refused
        return refused

    def _record_stored(self, number: int, verdict: Verdict) -> None:
        self.rate_control.on_accepted()
        if verdict is Verdict.ACCEPTED:
            self.counts.accepted += 1
        else:
            self.counts.duplicate += 1
        self.allocation.mark_stored(self.url, number)
        self.on_accepted(self.url, number)
        if self._wants_second:
            self._secondary_task = asyncio.create_task(
                self._use_second_connection(), name=f"second connection to {self.url}"
            )

    def _requeue_in_flight(self) -> None:
        for sent in self._in_flight.values():
            self.allocation.requeue(self.url, sent.number)
        self._in_flight.clear()

    async def _reconnect(self, failure: TransportError) -> None:
        """Open a new connection, with back-off; raises the last failure when patience ends."""
        while self.allocation.has_work(self.url):  # the second connection may have finished the share
            if self._accepted_then != (accepted := self.counts.accepted + self.counts.duplicate):
                self._accepted_then, self._failing_since = accepted, _now()
                self._backoff.reset()
            if _now() - self._failing_since >= self.timeouts.patience_s:
                raise failure
            await asyncio.sleep(self._backoff.next())
            try:
                self.connection = await self.reopen(self.url)
            except TransportError as error:
                failure = error
            else:
                return


async def run_senders(
    senders: Mapping[str, RelaySender], allocation: Allocation, *, on_failure: OnFailure, straggler_s: float
) -> None:
    """Run senders until their allocation is done.

    A relay that fails is dropped from the allocation. So is one that owes an answer for long when another has taken its
    share.

    Args:
        senders: One per relay, by URL.
        allocation: Which relay gets which event numbers.
        on_failure: Called with the URL of a relay that failed, and the error.
        straggler_s: How long a relay may owe an answer then, in seconds.

    Raises:
        Exception: Whatever `make_event` and `on_accepted` of a sender raise.
    """
    running: dict[str, asyncio.Task[None]] = {}
    done_at = math.inf  # loop time at which the first relay had taken its share

    def overdue_in(url: str) -> float:
        return max(done_at, senders[url].owing_since) + straggler_s - _now()

    try:
        while True:
            for url in set(allocation.relays).difference(running):
                if allocation.has_work(url):
                    running[url] = asyncio.create_task(senders[url].run(), name=f"send to {url}")
            if not running:
                return
            wait_s = min(straggler_s, *map(overdue_in, running)) if done_at < math.inf else None
            await asyncio.wait(running.values(), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for url, task in list(running.items()):
                if not task.done() and overdue_in(url) > 0:
                    continue
                del running[url]
                if error := await _end(url, task):
                    on_failure(url, error)
                    allocation.drop(url, keeps=isinstance(error, RelayRefused))
                else:
                    done_at = min(done_at, _now())
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


async def _end(url: str, task: asyncio.Task[None]) -> TransportError | PeerError | None:
    """Return why a sender failed; one that is not done is stopped."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        return RelayTimeout(f"{url}: {TOO_SLOW}")
    try:
        task.result()
    except (TransportError, PeerError) as error:
        return error
    return None


def _now() -> float:
    return asyncio.get_running_loop().time()
