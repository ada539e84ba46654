"""Connection to one relay: drives `session` over a websocket. Does network I/O; waits for answers have time limits."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from relay_client.errors import PeerError, RelayRefused, RelayTimeout, TransportError
from relay_client.event import HashedEvent, Signer
from relay_client.filter import Filter
from relay_client.messages import reason_prefix
from relay_client.outcomes import (
    AuthAnswered,
    AuthRequested,
    CountReceived,
    EventReceived,
    NoticeReceived,
    OkReceived,
    RequestClosed,
    StoredEventsSent,
)
from relay_client.rate_control import MAX_QUERY_RETRIES, RateControl
from relay_client.session import Session
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts
from relay_client.websocket import acknowledge_at_once, describe_error, open_websocket

OnEvent = Callable[[Mapping[str, object]], bool | None]  # gets an unverified event; True ends the query
OnLiveEvent = Callable[[Mapping[str, object]], bool]  # gets an unverified event; False if it was not wanted
OnCount = Callable[[int | None], None]  # gets a relay's count; None if it gave only an estimate

_MAX_AUTH = 3  # authentications per request; a relay may renew its challenge at any time


@dataclass(slots=True)
class _Request:
    on_event: OnEvent
    on_stored: Callable[[], None] | None  # None: a query
    closed: asyncio.Future[str]  # reason, empty if there is none
    on_count: OnCount | None = None  # set: a COUNT (NIP-45)
    stored_sent: bool = False

    @property
    def owes_answer(self) -> bool:
        """False for a live subscription once its stored events arrived: from then on silence is normal."""
        return not (self.on_stored and self.stored_sent)


class Connection:
    """An open connection to one relay. Made by `open`, ended by `close`."""

    def __init__(self, url: str, socket: ClientConnection, signer: Signer | None, timeouts: Timeouts) -> None:
        self.url = url
        self._socket = socket
        self._signer = signer
        self._timeouts = timeouts
        self._session = Session()
        self._answers: deque[OkReceived | NoticeReceived] = deque()  # bounded by the session's limits
        self._auth_answers: list[AuthAnswered] = []  # to the last `authenticate`: at most one
        self._auth_lock = asyncio.Lock()
        self._requests: dict[str, _Request] = {}
        self._rate_control = RateControl(timeouts, max_retries=MAX_QUERY_RETRIES)  # of queries
        self._received = asyncio.Event()  # set whenever a useful frame arrives
        self._active_at = 0.0  # loop time of the last useful frame in either direction
        self._notice = ""
        self._failure: TransportError | PeerError | None = None
        self._reader = asyncio.create_task(self._read(), name=f"read {url}")

    @classmethod
    async def open(
        cls,
        url: str,
        signer: Signer | None = None,
        *,
        only_public: bool = False,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> Self:
        """Connect to a relay.

        Args:
            url: The relay's address.
            signer: Authenticates (NIP-42) if the relay requires it.
            only_public: Refuse addresses that are not publicly routable.
            timeouts: How long to wait for the relay.

        Raises:
            TransportError: The relay cannot be reached.
        """
        return cls(url, await open_websocket(url, only_public=only_public, timeouts=timeouts), signer, timeouts)

    async def close(self) -> None:
        """Stop reading and close the websocket."""
        self._reader.cancel()
        try:
            await asyncio.wait({self._reader})  # unlike awaiting it, does not swallow a cancellation of the caller
        finally:
            await self._socket.close()
        if not self._reader.cancelled():
            self._reader.result()

    @property
    def has_room(self) -> bool:
        """True if one more event may be sent before the next answer."""
        return self._session.has_room

    @property
    def authenticated(self) -> bool:
        """True if the relay accepted our authentication (NIP-42)."""
        return self._session.authenticated

    async def send(self, event: HashedEvent) -> None:
        """Send an event, for which there must be room; `answers` returns the reply.

        Raises:
            TransportError: The connection failed.
            PeerError: The relay broke the protocol.
        """
        self._check_alive()
        await self._write(self._session.publish(event))

    async def answers(self) -> list[OkReceived | NoticeReceived]:
        """Wait for OK messages or a NOTICE, and return all since the last call; raises as `send` does.

        An event that is unanswered when its connection fails is never answered.
        """
        while not self._answers:
            await self._wait_for_frame()
        answers = list(self._answers)
        self._answers.clear()
        return answers

    async def authenticate(self, reason: str) -> None:
        """Authenticate to a relay that gave `reason` for a refusal (NIP-42); raises RelayRefused, TransportError."""
        if self._signer is None:
            raise RelayRefused(f"{self.url}: {reason}")
        async with self._auth_lock:
            if self.authenticated:  # another request did it meanwhile
                return
            while not self._session.auth_challenge:  # it may follow the refusal
                await self._wait_for_frame()
            self._auth_answers.clear()
            await self._write(self._session.authenticate(self._signer, url=self.url, now=int(time.time())))
            while not self._auth_answers:
                await self._wait_for_frame()
            if refusal := self._auth_answers.pop().refusal:
                raise RelayRefused(f"{self.url}: does not accept this key: {refusal}")

    async def query(self, wanted: Filter, on_event: OnEvent) -> None:
        """Request stored events; returns when the relay has sent them all.

        A rate-limited query is repeated after a wait, each longer than the last, for about a minute. The whole query
        has a deadline that nothing the relay sends puts off.

        Args:
            wanted: Filter of the request.
            on_event: Called with each unverified event, between two reads. Ends the query by returning True or by
                raising.

        Raises:
            RelayRefused: The relay refuses the request.
            TransportError: The connection failed, or the relay does not answer.
            PeerError: The relay broke the protocol.
        """
        large = len(wanted.ids) + sum(map(len, wanted.tags.values()))
        limit_s = self._timeouts.request_s + large * self._timeouts.event_s
        deadline = asyncio.timeout(limit_s)
        try:
            async with deadline:
                await self._request(wanted, on_event, None)
        except TimeoutError:
            if not deadline.expired():  # `on_event` raised it
                raise
            raise RelayTimeout(f"{self.url}: no complete answer for {limit_s:.0f} s{self._quote()}") from None

    async def count(self, wanted: Filter) -> int | None:
        """Return how many stored events match a filter, as the relay says (NIP-45); None if it does not say.

        Raises what `query` raises.
        """
        counts: list[int | None] = []
        limit_s = self._timeouts.count_s
        try:
            async with asyncio.timeout(limit_s):
                await self._request(wanted, lambda _raw_event: None, None, on_count=counts.append)
        except TimeoutError:
            raise RelayTimeout(f"{self.url}: no count for {limit_s:.0f} s{self._quote()}") from None
        return counts[0] if counts else None

    async def subscribe(self, wanted: Filter, on_event: OnLiveEvent, *, on_stored: Callable[[], None]) -> NoReturn:
        """Stream stored events, then new ones.

        Never returns: raises as `query` does when the subscription ends.

        Args:
            wanted: Filter of the request.
            on_event: Called with each unverified event, once per id. Events for which it returns False count as
                unsolicited; too many of them end the connection.
            on_stored: Called when all stored events have arrived.
        """
        await self._request(wanted, on_event, on_stored)
        raise TransportError(f"{self.url}: closed the subscription")

    async def _request(
        self,
        wanted: Filter,
        on_event: OnEvent,
        on_stored: Callable[[], None] | None,
        *,
        on_count: OnCount | None = None,
    ) -> None:
        """Open a request until it ends without a reason; repeat it after rate limits and authentication."""
        may_authenticate = _MAX_AUTH
        while True:
            await asyncio.sleep(self._rate_control.wait_s(_now()))
            asked_at, known = _now(), self.authenticated
            reason = await self._request_once(wanted, on_event, on_stored, on_count)
            if not reason:  # a relay that closes without a reason has nothing more to send
                self._rate_control.on_accepted()
                return
            if reason_prefix(reason) == "rate-limited" and on_stored is None:  # a subscription reconnects instead
                self._rate_control.on_rate_limited(sent_at=asked_at, now=_now())
                if not self._rate_control.exhausted:
                    continue
            elif (
                reason_prefix(reason) == "auth-required"
                and self._signer
                and may_authenticate
                and not (known and self.authenticated)
            ):
                may_authenticate -= 1
                await self.authenticate(reason)
                continue
            raise RelayRefused(
                f"{self.url}: {'closed the subscription' if on_stored else 'refused a request'}: {reason}"
            )

    async def _request_once(
        self, wanted: Filter, on_event: OnEvent, on_stored: Callable[[], None] | None, on_count: OnCount | None
    ) -> str:
        """Open one request and wait until it ends; returns the reason if the relay closed it."""
        self._check_alive()
        subscription_id, frame = (
            self._session.count(wanted) if on_count else self._session.subscribe(wanted, live=on_stored is not None)
        )
        request = _Request(on_event, on_stored, asyncio.get_running_loop().create_future(), on_count)
        self._requests[subscription_id] = request
        try:
            await self._write(frame)
            while not request.closed.done():
                await self._wait_for_frame(limited=request.owes_answer)
            return request.closed.result()
        finally:
            del self._requests[subscription_id]
            if request.closed.done():
                request.closed.exception()  # retrieved, even if the caller was cancelled first
            close = self._session.unsubscribe(subscription_id)
            if close and not self._failure:
                with contextlib.suppress(TransportError):
                    await self._write(close)

    async def _wait_for_frame(self, *, limited: bool = True) -> None:
        """Wait for a useful frame. If not `limited`, only the websocket's pings tell a dead connection."""
        self._check_alive()
        self._received.clear()
        try:
            async with asyncio.timeout_at(self._active_at + self._timeouts.answer_s if limited else None):
                await self._received.wait()
        except TimeoutError:
            raise RelayTimeout(f"{self.url}: no answer for {self._timeouts.answer_s:.0f} s{self._quote()}") from None
        self._check_alive()

    def _check_alive(self) -> None:
        if self._failure:
            raise self._failure

    def _quote(self) -> str:
        return f"; it said: {self._notice}" if self._notice else ""

    async def _write(self, frame: bytes) -> None:
        self._active_at = _now()
        try:
            async with asyncio.timeout(self._timeouts.answer_s):
                await self._socket.send(frame, text=True)
            acknowledge_at_once(self._socket)
        except (ConnectionClosed, TimeoutError) as error:
            raise self._failure or TransportError(f"{self.url}: {describe_error(error)}") from None

    async def _read(self) -> None:
        try:
            while True:
                self._handle(await self._socket.recv(decode=False))
        except ConnectionClosed as error:
            self._fail(TransportError(f"{self.url}: {describe_error(error)}{self._quote()}"))
        except PeerError as error:
            self._fail(type(error)(f"{self.url}: {error}"))
        except Exception as error:
            self._fail(TransportError(f"{self.url}: {error!r}"))
            raise

    def _fail(self, failure: TransportError | PeerError) -> None:
        self._failure = failure
        self._received.set()

    def _handle(self, frame: bytes) -> None:
        match self._session.receive(frame):
            case OkReceived() as answer:
                self._answers.append(answer)
            case EventReceived(subscription_id=subscription_id, raw_event=raw_event):
                self._pass_event(self._requests[subscription_id], raw_event)
            case (StoredEventsSent() | RequestClosed() | CountReceived()) as end:
                self._end(end)
            case AuthAnswered() as answer:
                self._auth_answers.append(answer)
            case AuthRequested():
                self._received.set()
                return  # neither this nor a NOTICE resets the answer timeout
            case NoticeReceived() as notice:
                self._notice = notice.text
                self._answers.append(notice)
                self._received.set()
                return
            case None:
                return
        self._active_at = _now()
        self._received.set()

    def _pass_event(self, request: _Request, raw_event: Mapping[str, object]) -> None:
        if request.closed.done():
            return
        try:
            answer = request.on_event(raw_event)
        except Exception as error:  # noqa: BLE001 (whatever it is belongs to the caller)
            request.closed.set_exception(error)
            return
        if request.on_stored is None and answer:
            request.closed.set_result("")
        elif request.on_stored is not None and not answer:
            self._session.count_unsolicited()

    def _end(self, end: StoredEventsSent | RequestClosed | CountReceived) -> None:
        request = self._requests.get(end.subscription_id)
        if request is None:
            return
        reason = ""
        match end:
            case RequestClosed():
                reason = end.reason
            case CountReceived():
                if request.on_count:
                    request.on_count(end.count)
            case StoredEventsSent():
                request.stored_sent = True
                if request.on_stored:
                    request.on_stored()
                    return
        if not request.closed.done():
            request.closed.set_result(reason)


def _now() -> float:
    return asyncio.get_running_loop().time()
