"""The source of a blob to mirror (BUD-04): which addresses may be read, and the response. Does network I/O.

The address is a stranger's choice, and the request is made from this machine: only `https` at public addresses, and
redirects only to the same blob (see `address`), so that it reaches nothing in the server's own network.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import orjson

from relay_client.blossom.address import is_public_origin, last_hash
from relay_client.blossom.transport import Transport, translated
from relay_client.errors import InvalidResponse, quote
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts
from relay_client.url import normalize_origin

MAX_REQUEST = 16_384  # bytes of the JSON that names an address


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSource:
    """A blob at another server."""

    url: str
    origin: str
    sha256: bytes

    @classmethod
    def parse(cls, raw_request: bytes, *, only_public: bool) -> "MirrorSource":
        """Parse the body of a request to mirror.

        Args:
            raw_request: JSON with the key `url`.
            only_public: Refuse what is not a public `https` address.

        Raises:
            InvalidResponse: It names no blob, or an address that must not be read.
        """
        try:
            raw = orjson.loads(raw_request)
        except orjson.JSONDecodeError:
            raw = None
        url = raw.get("url") if isinstance(raw, dict) else None
        if not isinstance(url, str):
            raise InvalidResponse('the body must be JSON: {"url": "https://…/<sha256>"}')
        try:
            origin, path = normalize_origin(url, ("http", "https"))
        except ValueError:
            raise InvalidResponse(f"{quote(url)} is not an address") from None
        sha256 = last_hash(path.partition("?")[0])
        if sha256 is None:
            raise InvalidResponse(f"{quote(url)} does not name a blob by its hash")
        if only_public and not is_public_origin(origin):
            raise InvalidResponse(f"{quote(origin)} is not a public https address")
        return cls(url=origin + path, origin=origin, sha256=sha256)

    @contextlib.asynccontextmanager
    async def open(
        self, *, only_public: bool, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Request the blob, following redirects to it.

        Raises:
            ServerRefused: The other server refuses, or does not have it.
            InvalidResponse: It redirects to where we must not follow, or does not give the length.
            TransportError: It cannot be reached, or does not answer in time. The body has no deadline here.
        """
        transport = Transport(self.origin, only_public=only_public, timeouts=timeouts)
        try:
            response = await self._request(transport)
            try:
                if response.content_length is None or "Content-Encoding" in response.headers:
                    raise InvalidResponse(f"{self.origin}: does not give the length of the blob")
                yield response
            finally:
                response.close()
        finally:
            await transport.close()

    async def _request(self, transport: Transport) -> aiohttp.ClientResponse:
        with translated(self.origin):
            async with asyncio.timeout_at(transport.deadline(0)):
                response = await transport.follow("GET", self.url, {}, self.sha256)
                try:
                    await transport.check(response)
                except BaseException:
                    response.close()
                    raise
                return response
