"""Connections to a remote signer over the relays on which it listens (NIP-46). Does network I/O.

Each relay has its own connection and back-off. A request goes to all of them, and again after a while, since relays do
not store it and may lose it; the first answer counts.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from relay_client.backoff import Backoff
from relay_client.connection import Connection
from relay_client.errors import InvalidEvent, InvalidMessage, PeerError, RelayRefused, SignerRefused, TransportError
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.nip46.exchange import Exchange, read_response
from relay_client.nip46.messages import NIP46_KIND, Request, Response
from relay_client.outcomes import OkReceived, Verdict
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

OnWaiting = Callable[[str], None]  # gets what the user may have to approve
OnAuthUrl = Callable[[str], None]  # gets the address at which the user has to approve
OnFailure = Callable[[str], None]  # gets why a relay cannot be used, once for each relay

_STORED = 10  # answers to ask for that a relay stored although it need not
_ACCEPTED = {Verdict.ACCEPTED, Verdict.DUPLICATE}


class SignerClient:
    """Client of a remote signer; an async context manager, which raises no error for relays that are away.

    Args:
        relays: URLs of the relays on which the signer listens.
        client_key: Key of this client, which the signer knows.
        signer: X-only public key of the signer; None: `accept` waits for one.
        on_waiting: Called with what is asked for if the signer takes longer than a program would.
        on_auth_url: Called with an address at which the user has to approve, once for a request.
        on_failure: Called when a relay cannot be used, which is tried again.
        timeouts: How long to wait for relays and for the signer.
    """

    def __init__(
        self,
        relays: Sequence[str],
        client_key: SecretKey,
        signer: bytes | None,
        *,
        on_waiting: OnWaiting,
        on_auth_url: OnAuthUrl,
        on_failure: OnFailure = lambda _reason: None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.signer = signer
        self._relays = relays
        self._client_key = client_key
        self._on_waiting = on_waiting
        self._on_auth_url = on_auth_url
        self._on_failure = on_failure
        self._timeouts = timeouts
        self._exchange: Exchange | None = None
        self._secret = ""  # that a signer has to repeat; empty: none is awaited
        self._asked = asyncio.Event()  # set when an exchange begins, and replaced by another
        self._heard = asyncio.Event()  # the same for each event of a relay
        self._asking = asyncio.Lock()  # one request at a time: the user sees one question after the other
        self._tasks: list[asyncio.Task[None]] = []
        self._failures: dict[str, str] = {}  # why a relay is not in use, by URL

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep_open(url), name=f"signer at {url}") for url in self._relays]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):  # a fault of this program: relays' failures do not end a task
                raise ended

    async def ask(self, make_request: Callable[[str], Request], *, what: str) -> str:
        """Send a request and return the result, which is not checked.

        Args:
            make_request: Makes the request of an id.
            what: What is asked for, for the user.

        Raises:
            CallerError: The request is too large.
            SignerRefused: The signer refuses, or does not answer in time.
        """
        if self.signer is None:
            raise SignerRefused("no signer has connected")
        async with self._asking:
            exchange = Exchange(
                client_key=self._client_key,
                signer=self.signer,
                request=make_request(secrets.token_hex(16)),
                deadline=_now() + self._timeouts.sign_s,
                patience_s=self._timeouts.sign_s,
            )
            self._exchange = exchange
            asked, self._asked = self._asked, asyncio.Event()
            asked.set()
            notice = asyncio.get_running_loop().call_later(self._timeouts.sign_notice_s, self._on_waiting, what)
            try:
                response = await self._answer(exchange, what)
            finally:
                self._exchange = None
                notice.cancel()
        if response.error:
            raise SignerRefused(f"your signer refuses {what}: {response.error[:200]!r}")
        return response.result

    async def accept(self, secret: str, *, limit_s: float) -> bytes:
        """Wait until a signer connects that knows the secret, and return its public key; it is `signer` from then on.

        Raises:
            SignerRefused: None did in time.
        """
        self._secret = secret
        try:
            async with asyncio.timeout(limit_s):
                while self.signer is None:
                    await self._heard.wait()
                return self.signer
        except TimeoutError:
            raise SignerRefused(f"no signer connected for {limit_s:.0f} s{self._excuse()}") from None
        finally:
            self._secret = ""

    async def _answer(self, exchange: Exchange, what: str) -> Response:
        """Wait for the answer of an exchange; raises SignerRefused at its deadline."""
        announced = False
        while (response := exchange.response) is None:
            if exchange.auth_url and not announced:
                announced = True
                self._on_auth_url(exchange.auth_url)
            try:
                async with asyncio.timeout_at(exchange.deadline):
                    await self._heard.wait()
            except TimeoutError:
                raise SignerRefused(
                    f"your signer did not answer in time: approve {what} there, and run this again{self._excuse()}"
                ) from None
        return response

    def _excuse(self) -> str:
        return f" ({'; '.join(self._failures.values())})" if self._failures else ""

    def _receive(self, raw_event: Mapping[str, object]) -> bool:
        """Take an event of a relay; return whether it was wanted."""
        if self.signer is None:
            wanted = self._meet(raw_event)
        else:
            wanted = self._exchange is not None and self._exchange.receive(raw_event, now=_now())
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()
        return wanted

    def _meet(self, raw_event: Mapping[str, object]) -> bool:
        """Take an event that may be from a signer that connects; only one that repeats the secret is."""
        try:
            author, response = read_response(self._client_key, raw_event)
        except (InvalidEvent, InvalidMessage):
            return False
        if not self._secret or not secrets.compare_digest(response.result.encode(), self._secret.encode()):
            return False
        self.signer = author
        return True

    async def _keep_open(self, url: str) -> None:
        """Stay connected to a relay until cancelled."""
        backoff, announced = Backoff(self._timeouts), False
        while True:
            try:
                await self._converse(url)
            except (TransportError, PeerError) as error:
                self._failures[url] = str(error)
                if not announced:
                    announced = True
                    self._on_failure(str(error))
            await asyncio.sleep(backoff.next())

    async def _converse(self, url: str) -> None:
        """Connect to a relay, subscribe to answers and send requests; raises TransportError or PeerError in the end."""
        client = self._client_key.pubkey.hex()
        authors = (self.signer,) if self.signer else ()
        wanted = Filter(authors=authors, kinds=(NIP46_KIND,), tags={"p": (client,)}, limit=_STORED)
        connection = await Connection.open(url, self._client_key, timeouts=self._timeouts)
        subscribed = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(connection.subscribe(wanted, self._receive, on_stored=subscribed.set))
                group.create_task(self._send(connection, subscribed))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            await connection.close()

    async def _send(self, connection: Connection, subscribed: asyncio.Event) -> None:
        """Send the request of each exchange once answers can arrive, and again until the signer reacts."""
        await subscribed.wait()
        self._failures.pop(connection.url, None)
        while True:
            asked, exchange = self._asked, self._exchange
            if exchange is None or not exchange.wants_sending:
                await asked.wait()
                continue
            await connection.send(exchange.event(created_at=int(time.time())))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeouts.sign_repeat_s):
                    if await self._was_passed_on(connection):
                        await asked.wait()

    async def _was_passed_on(self, connection: Connection) -> bool:
        """Wait for the relay's answer to a request; False: it has to be sent again. Raises RelayRefused."""
        for answer in await connection.answers():
            if not isinstance(answer, OkReceived) or answer.verdict in _ACCEPTED:
                continue
            if answer.verdict is not Verdict.AUTH_REQUIRED or connection.authenticated:
                raise RelayRefused(f"{connection.url}: refused a request to your signer: {answer.reason}")
            await connection.authenticate(answer.reason)
            return False
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()
