"""HTTP sessions for Blossom servers: deadlines, no compression, public addresses only where that is asked for.

Does network I/O.
"""

import aiohttp
from aiohttp.resolver import ThreadedResolver

from relay_client.errors import TransportError
from relay_client.proxy import find_proxy
from relay_client.public_resolver import PublicResolver
from relay_client.timeouts import Timeouts

_BUFFER = 256 << 10  # bytes of a response that wait to be read
_LONGEST_HEADER = 8_190


class Sessions:
    """HTTP sessions of one client: for the server that the user named, and for public addresses only."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._open: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close all connections."""
        for session in self._open.values():
            await session.close()

    def get(self, *, only_public: bool) -> aiohttp.ClientSession:
        """Return a session; it is opened on first use."""
        if only_public not in self._open:
            timeouts = self._timeouts
            self._open[only_public] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=PublicResolver() if only_public else ThreadedResolver(), limit=0
                ),
                timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect_s, sock_read=timeouts.answer_s),
                headers={"Accept-Encoding": "identity", "User-Agent": "randygpt"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_BUFFER,
                max_line_size=_LONGEST_HEADER,
            )
        return self._open[only_public]


def proxy_for(url: str, *, only_public: bool) -> str | None:
    """Return the proxy to reach a server through, as for relays; raises TransportError."""
    proxy = find_proxy(url.replace("http", "ws", 1))
    if proxy and only_public:
        raise TransportError(f"{url}: not connected through a proxy, which hides the server's real address")
    return proxy.url if proxy else None
