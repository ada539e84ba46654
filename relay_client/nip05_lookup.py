"""Lookup of the key of a name at its domain (NIP-05). Does network I/O.

The domain is a stranger's choice, so a lookup goes over `https` to public addresses only, follows no redirect, and
reads little.
"""

import asyncio
import ssl

import aiohttp

from relay_client.blossom.session import proxy_for
from relay_client.errors import InvalidResponse, TransportError
from relay_client.nip05 import Nip05Address, Nip05Key, parse_answer
from relay_client.public_resolver import PublicResolver
from relay_client.websocket import describe_error

MAX_ANSWER = 64 << 10  # bytes
LOOKUP_S = 5.0  # for all of it
_OK, _NOT_FOUND = 200, 404
_REDIRECTS = range(300, 400)


async def look_up(address: Nip05Address, *, timeout_s: float = LOOKUP_S) -> Nip05Key | None:
    """Ask a domain for the key of a name; None if it names none.

    Args:
        address: The name.
        timeout_s: Seconds for all of it.

    Raises:
        InvalidResponse: The answer is a redirect, too large, or not as NIP-05 says.
        TransportError: The domain cannot be reached in time, is not at a public address, or fails.
    """
    try:
        async with asyncio.timeout(timeout_s):
            raw_answer = await _read(address)
    except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
        raise TransportError(f"{address}: https://{address.domain}: {describe_error(error)}") from None
    return None if raw_answer is None else parse_answer(raw_answer, address)


async def _read(address: Nip05Address) -> bytes | None:
    """Return the document of a domain, None if it has none."""
    proxy_for(str(address.url), only_public=True)
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=PublicResolver(), ssl=ssl.create_default_context()),
            headers={"Accept-Encoding": "identity", "User-Agent": "randygpt"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session,
        session.get(address.url, allow_redirects=False) as response,
    ):
        if response.status == _NOT_FOUND:
            return None
        if response.status in _REDIRECTS:
            raise InvalidResponse(f"{address}: {address.domain} redirects, which NIP-05 forbids")
        if response.status != _OK:
            raise TransportError(f"{address}: {address.domain} answers with status {response.status}")
        found = bytearray()
        while block := await response.content.read(MAX_ANSWER):
            found += block
            if len(found) > MAX_ANSWER:
                raise InvalidResponse(f"{address}: the answer of {address.domain} exceeds {MAX_ANSWER:,} bytes")
        return bytes(found)
