"""Requests to the built-in Blossom server and its responses: headers, bodies, refusals. Does network and disk I/O."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from relay_client.blossom.blob_store import IncomingBlob, StoredBlob
from relay_client.hexadecimal import parse_hex
from relay_client.messages import sanitize

DEFAULT_TYPE = "application/octet-stream"

_DIGEST = 32  # bytes
_MAX_DIGITS = 31  # of a number
_BLOCK = 1 << 20  # bytes received before they are hashed and written
_IDLE_S = 30.0  # without a byte of an upload
_SMALL_BODY_S = 30.0  # for a whole body that is not a blob
_SEND_S = 60.0  # for a blob, and a second more for each `_SLOWEST` bytes
_SLOWEST = 16_384  # bytes
_LONGEST_TYPE = 127

ALWAYS = {"Server": "randygpt", "Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
PREFLIGHT = {
    "Access-Control-Allow-Headers": "Authorization, *",
    "Access-Control-Allow-Methods": "GET, HEAD, PUT, DELETE",
    "Access-Control-Max-Age": "86400",
}
# A browser must not run what a stranger uploaded.
_INERT = {"Content-Security-Policy": "default-src 'none'; sandbox", "X-Content-Type-Options": "nosniff"}


_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Full(asyncio.Protocol):
    """A connection beyond the limit, which is answered and closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(_FULL)
        transport.close()


def limit_connections(server: web.Server, most: int) -> Callable[[], asyncio.BaseProtocol]:
    """Return the protocol factory of a server that has at most so many connections."""
    return lambda: server() if len(server.connections) < most else _Full()


def drop_other_expectations(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Return a request factory that ignores an Expect header other than `100-continue`: aiohttp fails on some."""

    def make_request(message: RawRequestMessage, *args: Any) -> web.BaseRequest:  # noqa: ANN401 (aiohttp's)
        if message.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            headers = CIMultiDict(message.headers)
            headers.popall(hdrs.EXPECT, [])
            message = message._replace(headers=CIMultiDictProxy(headers))
        return make(message, *args)

    return make_request


class Refused(Exception):
    """A request is refused with a status and a reason."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


def transfer_s(size: int) -> float:
    """Return the seconds that a transfer of `size` bytes may take; a slower one is cut off."""
    return _SEND_S + size / _SLOWEST


class BlobResponse(web.FileResponse):
    """A blob, sent by the kernel. A client that hardly reads does not keep the file open forever."""

    def __init__(self, path: Path, blob: StoredBlob) -> None:
        cached = {"Cache-Control": "public, max-age=31536000, immutable"}
        super().__init__(path, headers={"Content-Type": blob.type, **cached, **_INERT})
        self._deadline_s = transfer_s(blob.size)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the blob; raises ConnectionResetError if that takes too long."""
        try:
            async with asyncio.timeout(self._deadline_s):
                return await super().prepare(request)
        except TimeoutError:
            raise ConnectionResetError("the client hardly reads") from None


async def keep_waiting(_request: web.Request) -> None:
    """Answer `Expect: 100-continue` later, so that a refused client does not send its blob."""


async def receive(content: StreamReader, incoming: IncomingBlob) -> None:
    """Write the body of a request to a blob; hashing and writing do not block the event loop."""
    block = bytearray()
    while True:
        async with asyncio.timeout(_IDLE_S):
            received = await content.readany()
        block += received
        if block and (len(block) >= _BLOCK or not received):
            await asyncio.to_thread(incoming.write, block)
            block = bytearray()
        if not received and content.at_eof():
            return


async def read_small(request: web.Request, max_size: int) -> bytes:
    """Return the body of a request; raises Refused if it has more than `max_size` bytes, TimeoutError if it is slow."""
    body = b""
    async with asyncio.timeout(_SMALL_BODY_S):
        while not request.content.at_eof() and len(body) <= max_size:
            body += await request.content.readany()
    if len(body) > max_size:
        raise Refused(413, "the body is too large")
    return body


def refusal(status: int, reason: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the response that refuses a request, with the reason in words (BUD-01)."""
    words = sanitize(reason)
    ascii_words = words.encode("ascii", "replace").decode()
    return web.Response(status=status, text=words, headers={"X-Reason": ascii_words, **(headers or {})})


def hash_header(request: web.Request) -> bytes | None:
    """Return the header X-SHA-256, None if it is missing; raises Refused."""
    if "X-SHA-256" not in request.headers:
        return None
    sha256 = parse_hex(request.headers["X-SHA-256"].lower(), _DIGEST)
    if sha256 is None:
        raise Refused(400, "X-SHA-256 is not a SHA-256 in hex")
    return sha256


def int_header(request: web.Request, name: str) -> int:
    """Return a header that is a number of bytes; raises Refused if it is missing or is none."""
    number = parse_number(request.headers.get(name, ""))
    if number is None:
        raise Refused(411, f"{name} is required")
    return number


def parse_number(text: str) -> int | None:
    """Return a decimal number of ASCII digits; None for any other text, and for one that is too long."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS
    return int(text) if is_number else None


def media_type_of(raw_type: str) -> str:
    """Return a media type without its parameters; `application/octet-stream` for what is none."""
    found = raw_type.partition(";")[0].strip().lower()
    valid = "/" in found and found.isascii() and found.isprintable() and len(found) <= _LONGEST_TYPE
    return found if valid else DEFAULT_TYPE


def origin_of(host: str, port: int) -> str:
    """Return the origin of an `http` server at an IP address."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
