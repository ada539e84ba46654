"""Client for one Blossom server: upload, download in ranges, mirror, delete. Does network I/O.

Everything that waits has a time limit that the server cannot put off. A server that is busy is asked again later; one
that wants to be paid is never paid.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self, TypeVar

import aiohttp
import orjson

from relay_client.blossom.address import blob_url
from relay_client.blossom.descriptor import BlobDescriptor
from relay_client.blossom.response import MISSING, body_start, describe_refusal
from relay_client.blossom.transport import MAX_FAILURES, Reply, Transport, translated
from relay_client.errors import InvalidResponse, ServerRefused, TransportError
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

MAX_UPLOADS = 2  # at a time; servers with few workers answer more with 503
CONTENT_TYPE = "application/octet-stream"

_BLOCK = 128 << 10  # bytes sent at once
_SLOWEST_MIRROR = 256 << 10  # bytes per second; a slower copy is given up
_UNDECIDED = frozenset({400, 401, 404, 405, 500, 501})  # to HEAD /upload: a token is missing, or BUD-06 is
_UNAUTHORIZED = 401
_CONFLICT = frozenset({409})  # the server has the blob, or received another one
_CONFIRM_TRIES = 6  # to ask for a blob that a server may store later
_CONFIRM_WAIT_S = 0.1  # before the second of them; doubles

# Returns the header Authorization for a request; True: with a new token, because the server refused the last one.
Authorize = Callable[[bool], Awaitable[str]]
OpenBody = Callable[[], AsyncIterator[bytes]]  # the bytes of a blob from the start; called again for each attempt

_Result = TypeVar("_Result")


class BlobStream:
    """Body of a response with a blob or a range of it.

    Args:
        offset: Offset in the blob of the next byte: that of the range, or 0 if the server sends the whole blob.
        response: The response.
        origin: The server, for errors.
        deadline: Loop time at which reading ends, whatever the server sends.
    """

    def __init__(self, offset: int, response: aiohttp.ClientResponse, *, origin: str, deadline: float) -> None:
        self.offset = offset
        self._response = response
        self._origin = origin
        self._deadline = deadline

    async def read(self, size: int) -> bytes:
        """Return the next `size` bytes; raises TransportError if they do not arrive."""
        with translated(self._origin):
            async with asyncio.timeout_at(self._deadline):
                try:
                    data = await self._response.content.readexactly(size)
                except asyncio.IncompleteReadError:
                    raise TransportError(f"{self._origin}: the file ends too early") from None
        self.offset += size
        return data

    async def skip(self, size: int) -> None:
        """Read and discard bytes; raises TransportError if they do not arrive."""
        while size:
            size -= len(await self.read(min(size, _BLOCK)))

    def close(self) -> None:
        """Close the connection, or keep it for the next request if the body was read to its end."""
        self._response.close()


class BlossomClient:
    """Client for one server; an async context manager.

    Args:
        origin: The server, as `normalize_server` returns it.
        only_public: Connect to publicly routable addresses only: for a server that an event named.
        timeouts: How long to wait for the server.
    """

    def __init__(self, origin: str, *, only_public: bool = False, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> None:
        self.origin = origin
        self._answer_s = timeouts.answer_s
        self._http = Transport(origin, only_public=only_public, timeouts=timeouts)
        self._uploads = asyncio.Semaphore(MAX_UPLOADS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    # --- reading

    @contextlib.asynccontextmanager
    async def open_blob(self, sha256: bytes, *, size: int, start: int, end: int) -> AsyncIterator[BlobStream]:
        """Request a range of a blob and open its body, which may be left before its end.

        The server may send the whole blob instead: see `BlobStream.offset`. A busy server is asked again.

        Args:
            sha256: Hash of the blob.
            size: Its size, in bytes.
            start: First byte of the range.
            end: End of the range, not included; at most `size`.

        Raises:
            ServerRefused: The server refuses, or does not have the blob (status 404 or 410).
            InvalidResponse: The server sends something else, or redirects to where we must not follow.
            TransportError: The server cannot be reached, is busy or too slow, or the body ends too early.
        """
        stream = await self._http.retry(lambda: self._start(sha256, size, start, end), max_failures=1)
        try:
            yield stream
        finally:
            stream.close()

    async def _start(self, sha256: bytes, size: int, start: int, end: int) -> BlobStream:
        """Request a range once; returns and raises as `open_blob` does."""
        headers = {} if (start, end) == (0, size) else {"Range": f"bytes={start}-{end - 1}"}
        deadline = self._http.deadline(end - start)
        with translated(self.origin):
            async with asyncio.timeout_at(deadline):
                response = await self._http.follow("GET", blob_url(self.origin, sha256), headers, sha256)
                try:
                    await self._http.check(response)
                    with self._http.named():
                        offset = body_start(response.status, response.headers, start=start, end=end, size=size)
                except BaseException:
                    response.close()
                    raise
        return BlobStream(offset, response, origin=self.origin, deadline=deadline)

    async def read_range(self, sha256: bytes, *, size: int, start: int, end: int) -> bytes:
        """Return a range of a blob, which is not verified; takes and raises what `open_blob` does.

        A range whose connection breaks is read again.
        """

        async def attempt() -> bytes:
            stream = await self._start(sha256, size, start, end)
            try:
                await stream.skip(start - stream.offset)
                return await stream.read(end - start)
            finally:
                stream.close()

        return await self._http.retry(attempt)

    async def get(self, sha256: bytes, *, max_size: int) -> bytes:
        """Return a whole blob of at most `max_size` bytes, verified by its hash; raises as `open_blob` does."""

        async def attempt() -> Reply:
            return await self._http.exchange(
                "GET", blob_url(self.origin, sha256), sha256=sha256, max_reply=max_size + 1
            )

        data = (await self._http.retry(attempt)).body
        if len(data) > max_size or hashlib.sha256(data).digest() != sha256:
            raise InvalidResponse(f"{self.origin}: sends a file that does not match its hash")
        return data

    async def has(self, sha256: bytes, size: int) -> bool:
        """Return whether the server says that it has a blob of this size; raises as `open_blob` does."""

        async def attempt() -> bool:
            reply = await self._http.exchange("HEAD", blob_url(self.origin, sha256), sha256=sha256, accept=MISSING)
            # Some servers do not name the length.
            return reply.status not in MISSING and reply.headers.get("Content-Length", str(size)) == str(size)

        return await self._http.retry(attempt)

    # --- writing

    async def check_upload(self, sha256: bytes, size: int) -> None:
        """Ask whether the server would take a blob (BUD-06), before anything is signed.

        Returns also if the server does not know the question, or wants a token first.

        Raises:
            ServerRefused: It would not; the message says why.
            TransportError: The server cannot be reached.
        """
        headers = {"X-SHA-256": sha256.hex(), "X-Content-Length": str(size), "X-Content-Type": CONTENT_TYPE}

        async def attempt() -> Reply:
            return await self._http.exchange("HEAD", f"{self.origin}/upload", headers=headers, accept=_UNDECIDED)

        await self._http.retry(attempt, max_failures=1)

    async def upload(self, sha256: bytes, size: int, open_body: OpenBody, authorize: Authorize) -> BlobDescriptor:
        """Upload a blob (BUD-02), at most two at a time.

        Args:
            sha256: Hash of the blob.
            size: Its size, in bytes.
            open_body: Opens its bytes. What it raises is raised here.
            authorize: Returns the header `Authorization`. What it raises is raised here.

        Returns:
            The server's descriptor, which has this hash and size. A server that sends none is asked for the blob.

        Raises:
            ServerRefused: The server does not take it.
            InvalidResponse: The server stored something else, or nothing.
            TransportError: The server cannot be reached, is busy or too slow.
        """
        headers = {"Content-Type": CONTENT_TYPE, "Content-Length": str(size), "X-SHA-256": sha256.hex()}
        url = f"{self.origin}/upload"

        async def attempt(authorization: str) -> Reply:
            all_headers = {**headers, "Authorization": authorization}
            failed: list[Exception] = []
            try:
                async with asyncio.timeout(self._answer_s) as stall:
                    body = self._body(open_body(), stall, failed)
                    return await self._http.exchange(
                        "PUT", url, headers=all_headers, body=body, size=size, accept=_CONFLICT
                    )
            except TransportError:
                if failed:  # the file, not the server
                    raise failed[0] from None
                raise
            except TimeoutError:
                raise TransportError(f"{self.origin}: no answer in time") from None

        async with self._uploads:
            return await self._confirm(await self._authorized(attempt, authorize), sha256, size)

    async def mirror(self, source: str, sha256: bytes, size: int, authorize: Authorize) -> BlobDescriptor:
        """Have the server copy a blob from the server `source` (BUD-04); returns and raises as `upload` does.

        It is asked once, and given up when it takes too long.
        """
        body = orjson.dumps({"url": blob_url(source, sha256)})
        url = f"{self.origin}/mirror"

        async def attempt(authorization: str) -> Reply:
            headers = {"Content-Type": "application/json", "Authorization": authorization}
            try:
                async with asyncio.timeout(self._answer_s + size / _SLOWEST_MIRROR):
                    return await self._http.exchange(
                        "PUT", url, headers=headers, body=body, size=size, accept=_CONFLICT
                    )
            except TimeoutError:
                raise TransportError(f"{self.origin}: no answer in time") from None

        async with self._uploads:
            return await self._confirm(await self._authorized(attempt, authorize, max_failures=1), sha256, size)

    async def delete(self, sha256: bytes, authorize: Authorize) -> bool:
        """Delete a blob (BUD-12), and return whether the server had it; raises ServerRefused, TransportError."""

        async def attempt(authorization: str) -> bool:
            headers = {"Authorization": authorization}
            reply = await self._http.exchange("DELETE", blob_url(self.origin, sha256), headers=headers, accept=MISSING)
            return reply.status not in MISSING

        return await self._authorized(attempt, authorize)

    # --- internal

    async def _body(
        self, blocks: AsyncIterator[bytes], stall: asyncio.Timeout, failed: list[Exception]
    ) -> AsyncIterator[memoryview]:
        """Yield a body in small blocks; each that is sent puts `stall` off. An error of the source goes to `failed`."""
        clock = asyncio.get_running_loop().time
        try:
            async for block in blocks:
                for start in range(0, len(block), _BLOCK):
                    stall.reschedule(clock() + self._answer_s)
                    yield memoryview(block)[start : start + _BLOCK]
            stall.reschedule(clock() + self._answer_s)
        except Exception as error:
            failed.append(error)
            raise

    async def _authorized(
        self, attempt: Callable[[str], Awaitable[_Result]], authorize: Authorize, *, max_failures: int = MAX_FAILURES
    ) -> _Result:
        """Make attempts at a change, once more with a new token if the server refuses the first."""
        renewed = False

        async def with_token() -> _Result:
            nonlocal renewed
            try:
                return await attempt(await authorize(False))
            except ServerRefused as error:
                if error.status != _UNAUTHORIZED or renewed:
                    raise
            renewed = True
            return await attempt(await authorize(True))

        return await self._http.retry(with_token, max_failures=max_failures)

    async def _confirm(self, reply: Reply, sha256: bytes, size: int) -> BlobDescriptor:
        """Return the descriptor in the reply to a change; without one, ask whether the server has the blob now."""
        found = None
        if reply.status not in _CONFLICT:
            with contextlib.suppress(InvalidResponse):
                found = BlobDescriptor.parse(reply.body)
        if found and (found.sha256, found.size) != (sha256, size):
            raise InvalidResponse(f"{self.origin}: stored another file: {found.size:,} bytes, {found.sha256.hex()}")
        if found or await self._has_soon(sha256, size, tries=1 if reply.status in _CONFLICT else _CONFIRM_TRIES):
            return found or BlobDescriptor(sha256=sha256, size=size)
        if reply.status in _CONFLICT:
            words = describe_refusal(reply.status, reply.headers, reply.body)
            raise ServerRefused(f"{self.origin}: {words}", status=reply.status)
        raise InvalidResponse(f"{self.origin}: reports success, and does not have the file")

    async def _has_soon(self, sha256: bytes, size: int, *, tries: int) -> bool:
        wait_s = _CONFIRM_WAIT_S
        for left in reversed(range(tries)):
            with contextlib.suppress(ServerRefused):  # it does not answer HEAD
                if await self.has(sha256, size):
                    return True
            if left:
                await asyncio.sleep(wait_s)
                wait_s *= 2
        return False
