"""One relay over a websocket: the edge around `session`. Does network I/O; every wait has a deadline."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from socket import SOCK_STREAM
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from relay_client.errors import PeerError, RelayRefused, RelayTimeout, TransportError
from relay_client.event import HashedEvent, Signer
from relay_client.filter import Filter
from relay_client.hints import is_public
from relay_client.messages import clean, prefix
from relay_client.rate_control import QUESTION_REPEATS, RateControl
from relay_client.session import (
    Acknowledged,
    AuthAnswered,
    AuthRequested,
    EventReceived,
    NoticeReceived,
    RequestFinished,
    Session,
)
from relay_client.url import is_loopback

MAX_FRAME = 256 << 10  # bytes; an event of ours is a quarter of it
CONNECT_S = 10.0
ANSWER_S = 30.0  # without a single answer while some are owed

OnEvent = Callable[[Mapping[str, object]], bool | None]  # True: that was enough


@dataclass(slots=True)
class _Query:
    on_event: OnEvent
    done: asyncio.Future[RequestFinished]


async def dial(url: str, *, only_public: bool = False) -> ClientConnection:
    """A socket to a relay, within our limits, as `Connection.open` makes it; raises TransportError with the reason."""
    local = is_loopback(url)
    try:
        where: dict[str, Any] = {"host": await _public_address(url)} if only_public else {}
        return await connect(
            url,
            **where,  # an address given here is not looked up again, and not left for a redirect
            max_size=MAX_FRAME,
            max_queue=16,
            open_timeout=CONNECT_S,
            close_timeout=2,
            compression=None if local else "deflate",
            proxy=None if local else True,
        )
    except (OSError, ValueError, WebSocketException) as error:  # ValueError: a host name that is none
        raise TransportError(f"{url}: {_words(error)}") from None


class Connection:
    """An open connection to one relay. Made by `open`, ended by `close`."""

    def __init__(self, url: str, socket: ClientConnection, signer: Signer | None) -> None:
        self.url = url
        self._socket = socket
        self._signer = signer
        self._session = Session()
        self._said: deque[Acknowledged | NoticeReceived] = deque()  # as many as the session lets through
        self._identities: list[AuthAnswered] = []  # answers to the last `authenticate`: one
        self._identifying = asyncio.Lock()
        self._queries: dict[str, _Query] = {}
        self._rate_control = RateControl(max_repeats=QUESTION_REPEATS)  # of what is asked
        self._heard = asyncio.Event()  # set whenever a frame of use arrives
        self._active_at = 0.0  # loop time of the last frame of use, theirs or ours: from here silence is counted
        self._notice = ""
        self._failure: TransportError | PeerError | None = None
        self._reader = asyncio.create_task(self._read(), name=f"read {url}")

    @classmethod
    async def open(cls, url: str, signer: Signer | None = None, *, only_public: bool = False) -> Self:
        """Connect, if `only_public` then to the open internet or not at all; raises TransportError with the reason.

        A relay that insists on knowing who is there learns who `signer` is.
        """
        return cls(url, await dial(url, only_public=only_public), signer)

    async def close(self) -> None:
        """Stop reading and close the socket."""
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        await self._socket.close()

    @property
    def has_room(self) -> bool:
        """Whether one more event may be sent before the next answer."""
        return self._session.has_room

    @property
    def authenticated(self) -> bool:
        """Whether the relay knows who is there (NIP-42)."""
        return self._session.authenticated

    async def send(self, event: HashedEvent) -> None:
        """Offer an event, for which there must be room; `answers` tells. Raises TransportError and PeerError."""
        self._check_alive()
        await self._write(self._session.publish(event))

    async def answers(self) -> list[Acknowledged | NoticeReceived]:
        """What the relay has said about events since the last call, at least one thing; raises as `send` does.

        An event whose connection fails before it is answered is never answered.
        """
        while not self._said:
            await self._listen()
        said = list(self._said)
        self._said.clear()
        return said

    async def authenticate(self, reason: str) -> None:
        """Authenticate to a relay that gave `reason` for a refusal (NIP-42); raises RelayRefused, TransportError."""
        if self._signer is None:
            raise RelayRefused(f"{self.url}: {reason}")
        async with self._identifying:
            if self.authenticated:  # meanwhile, for another request
                return
            while not self._session.auth_challenge:
                await self._listen()
            self._identities.clear()
            await self._write(self._session.authenticate(self._signer, url=self.url, now=int(time.time())))
            while not self._identities:
                await self._listen()
            if refusal := self._identities.pop().refusal:
                raise RelayRefused(f"{self.url}: does not accept this key: {refusal}")

    async def query(self, wanted: Filter, on_event: OnEvent) -> None:
        """Ask, call `on_event` for each event as it arrives, and return when the relay has sent what it stores.

        A relay that finds it too fast is asked again after a wait, each longer than the last, for about a minute.
        `on_event` gets unverified data and runs between two reads (so it is also the brake). It ends the query by
        returning True, or by raising. Raises RelayRefused when the relay refuses, TransportError when it goes away or
        does not answer, PeerError when it breaks the protocol.
        """
        while True:
            await asyncio.sleep(self._rate_control.wait_s(_now()))
            asked_at, known = _now(), self.authenticated
            refusal = await self._ask(wanted, on_event)
            if not refusal:  # without a reason, a relay that closes is merely done
                self._rate_control.on_accepted()
                return
            if prefix(refusal) == "rate-limited":
                self._rate_control.on_rate_limited(sent_at=asked_at, now=_now())
                if not self._rate_control.exhausted:
                    continue
            elif prefix(refusal) == "auth-required" and self._signer and not known:
                await self.authenticate(refusal)
                continue
            raise RelayRefused(f"{self.url}: refused a request: {refusal}")

    async def _ask(self, wanted: Filter, on_event: OnEvent) -> str:
        """One request, to its end; gives the reason if the relay closed it."""
        self._check_alive()
        subscription, frame = self._session.subscribe(wanted)
        query = _Query(on_event, asyncio.get_running_loop().create_future())
        self._queries[subscription] = query
        try:
            await self._write(frame)
            while not query.done.done():
                await self._listen()
            return query.done.result().reason
        finally:
            del self._queries[subscription]
            if query.done.done():
                query.done.exception()  # seen, also where whoever asked was cancelled first
            close = self._session.unsubscribe(subscription)
            if close and not self._failure:
                with contextlib.suppress(TransportError):
                    await self._write(close)

    async def _listen(self) -> None:
        """Wait until the reader has heard something of use."""
        self._check_alive()
        self._heard.clear()
        try:
            async with asyncio.timeout_at(self._active_at + ANSWER_S):
                await self._heard.wait()
        except TimeoutError:
            said = f"; it said: {self._notice}" if self._notice else ""
            raise RelayTimeout(f"{self.url}: no answer for {ANSWER_S:.0f} s{said}") from None
        self._check_alive()

    def _check_alive(self) -> None:
        if self._failure:
            raise self._failure

    async def _write(self, frame: bytes) -> None:
        self._active_at = _now()
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._socket.send(frame, text=True)
        except (ConnectionClosed, TimeoutError) as error:
            raise self._failure or TransportError(f"{self.url}: {_words(error)}") from None

    async def _read(self) -> None:
        try:
            while True:
                self._handle(await self._socket.recv(decode=False))
        except ConnectionClosed as error:
            said = f"; it said: {self._notice}" if self._notice else ""
            self._fail(TransportError(f"{self.url}: {_words(error)}{said}"))
        except PeerError as error:
            self._fail(type(error)(f"{self.url}: {error}"))
        except Exception as error:
            self._fail(TransportError(f"{self.url}: {error!r}"))
            raise

    def _fail(self, failure: TransportError | PeerError) -> None:
        self._failure = failure
        self._heard.set()

    def _handle(self, frame: bytes) -> None:
        match self._session.receive(frame):
            case Acknowledged() as answer:
                self._said.append(answer)
            case EventReceived() as delivered:
                self._deliver(self._queries[delivered.subscription], delivered.raw_event)
            case RequestFinished() as finished:
                query = self._queries.get(finished.subscription)
                if query and not query.done.done():
                    query.done.set_result(finished)
            case AuthAnswered() as authenticated:
                self._identities.append(authenticated)
            case AuthRequested():
                pass
            case NoticeReceived() as noticed:
                self._notice = noticed.text
                self._said.append(noticed)
                self._heard.set()
                return  # words alone do not put off the end of patience
            case None:
                return
        self._active_at = _now()
        self._heard.set()

    @staticmethod
    def _deliver(query: _Query, raw_event: Mapping[str, object]) -> None:
        if query.done.done():
            return
        try:
            if query.on_event(raw_event):
                query.done.set_result(RequestFinished(subscription="", reason=""))
        except Exception as error:  # noqa: BLE001 (whatever it is belongs to whoever asked)
            query.done.set_exception(error)


async def _public_address(url: str) -> str:
    """What the host of a `wss` address resolves to; raises TransportError unless that is the open internet only."""
    if get_proxy(parse_uri(url)):
        raise TransportError(f"{url}: where a proxy leads cannot be checked")
    parts = urlsplit(url)
    async with asyncio.timeout(CONNECT_S):
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port or 443, type=SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    if not addresses or not all(map(is_public, addresses)):
        raise TransportError(f"{url}: not a public address")
    return addresses[0]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _words(error: Exception) -> str:
    """A foreign error in a few words, without its class."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return clean(str(error)) or type(error).__name__
