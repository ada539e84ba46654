"""HTTP requests to one Blossom server: deadlines, redirects, refusals, repeats. Does network I/O."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from relay_client.blossom.address import redirect_target
from relay_client.blossom.response import BUSY, FAILING, describe_refusal, retry_after_s
from relay_client.blossom.session import Sessions, proxy_for
from relay_client.errors import InvalidResponse, ServerRefused, SignerRefused, TransportError
from relay_client.timeouts import Timeouts
from relay_client.url import normalize_origin
from relay_client.websocket import describe_error

Body = AsyncIterator[memoryview] | bytes

_SLOWEST = 32 << 10  # bytes per second; a transfer that is slower on average ends
_MAX_REDIRECTS = 2
_MAX_REPLY = 64 << 10  # bytes of a descriptor or a refusal
_MAX_BUSY = 6  # answers "busy" to one request until the server is given up
MAX_FAILURES = 3  # of the connection or the server (5xx), the same
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = range(200, 300)

_Result = TypeVar("_Result")


class _Busy(TransportError):
    """The server is busy, and may say when to come back."""

    def __init__(self, message: str, wait_s: float | None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Response to a small request, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """HTTP requests to one server.

    Args:
        origin: The server.
        only_public: Connect to publicly routable addresses only.
        timeouts: How long to wait for the server.
    """

    def __init__(self, origin: str, *, only_public: bool, timeouts: Timeouts) -> None:
        self.origin = origin
        self.timeouts = timeouts
        self._only_public = only_public
        self._sessions = Sessions(timeouts)

    async def close(self) -> None:
        """Close all connections."""
        await self._sessions.close()

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        sha256: bytes | None = None,
        accept: frozenset[int] = frozenset(),
        max_reply: int = _MAX_REPLY,
        size: int = 0,
    ) -> Reply:
        """Send one request and read the reply.

        Args:
            method: HTTP method.
            url: Address.
            headers: Headers of the request.
            body: Its body.
            sha256: Follow redirects to this blob; None: none are followed.
            accept: Statuses that are no error, in addition to 2xx.
            max_reply: Bytes of the reply to read at most.
            size: Bytes that the server has to move, for the deadline.
        """
        with translated(self.origin):
            async with asyncio.timeout_at(self.deadline(size or max_reply)):
                if sha256 is not None:
                    response = await self.follow(method, url, headers or {}, sha256)
                else:
                    response = await self._send(method, url, headers or {}, body, only_public=self._only_public)
                try:
                    if response.status not in accept:
                        await self.check(response)
                    data = await _read_up_to(response, max_reply)
                    return Reply(status=response.status, headers=response.headers, body=data)
                finally:
                    response.close()

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None = None,
        *,
        only_public: bool,
    ) -> aiohttp.ClientResponse:
        session = self._sessions.get(only_public=only_public)
        proxy = proxy_for(url, only_public=only_public)
        return await session.request(method, url, headers=headers, data=body, allow_redirects=False, proxy=proxy)

    async def follow(self, method: str, url: str, headers: Mapping[str, str], sha256: bytes) -> aiohttp.ClientResponse:
        """Send a request for a blob without a token, and follow redirects that lead to the same blob."""
        only_public = self._only_public
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._send(method, url, headers, only_public=only_public)
            if response.status not in _REDIRECTS:
                return response
            response.close()
            with self.named():
                url = redirect_target(response.headers.get("Location", ""), url=url, sha256=sha256)
            only_public = only_public or normalize_origin(url, ("http", "https"))[0] != self.origin
        raise InvalidResponse(f"{self.origin}: redirects more than {_MAX_REDIRECTS} times")

    async def retry(self, attempt: Callable[[], Awaitable[_Result]], *, max_failures: int = MAX_FAILURES) -> _Result:
        """Make attempts until one succeeds, with longer and longer waits while the server is busy or fails."""
        busy, failures, wait_s = 0, 0, self.timeouts.rate_limit_first_s
        while True:
            asked_s = None
            try:
                return await attempt()
            except (ServerRefused, SignerRefused):
                raise
            except _Busy as error:
                busy, asked_s = busy + 1, error.wait_s
                if busy == _MAX_BUSY:
                    raise
            except TransportError:
                failures += 1
                if failures == max_failures:
                    raise
            await asyncio.sleep(wait_s if asked_s is None else asked_s)
            wait_s = min(2 * wait_s, self.timeouts.retry_longest_s)

    async def check(self, response: aiohttp.ClientResponse) -> None:
        """Raise ServerRefused or TransportError, with the server's reason, unless the response is a success."""
        if response.status in _OK:
            return
        body = await _read_up_to(response, _MAX_REPLY)
        words = f"{self.origin}: {describe_refusal(response.status, response.headers, body)}"
        if response.status in BUSY:
            raise _Busy(words, retry_after_s(response.headers))
        if response.status in FAILING:
            raise TransportError(words)
        raise ServerRefused(words, status=response.status)

    def deadline(self, size: int) -> float:
        """Return the loop time at which a request for `size` bytes ends, whatever the server sends meanwhile."""
        return asyncio.get_running_loop().time() + self.timeouts.request_s + size / _SLOWEST

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Name the server in an InvalidResponse."""
        try:
            yield
        except InvalidResponse as error:
            raise InvalidResponse(f"{self.origin}: {error}") from None


async def _read_up_to(response: aiohttp.ClientResponse, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size and (block := await response.content.read(size - len(parts))):
        parts += block
    return bytes(parts)


@contextlib.contextmanager
def translated(origin: str) -> Iterator[None]:
    """Raise errors of the HTTP library and the operating system as TransportError."""
    try:
        yield
    except aiohttp.ClientPayloadError:
        raise TransportError(f"{origin}: the connection broke") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
        raise TransportError(f"{origin}: {describe_error(error)}") from None
