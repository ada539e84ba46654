"""Opening of websockets to relays, with size and time limits; for hints, to public hosts only. Does network I/O."""

import asyncio
import contextlib
import socket
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from relay_client.errors import TransportError
from relay_client.hints import is_public
from relay_client.messages import sanitize
from relay_client.proxy import find_proxy
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts
from relay_client.url import is_loopback

_REDIRECTS = range(300, 400)

MAX_FRAME = 256 << 10  # bytes; four times the largest event that we send


class _Connect(connect):
    """Opening of a websocket that follows no redirect: where it leads was not chosen by the user."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        if isinstance(exc, InvalidStatus) and exc.response.status_code in _REDIRECTS:
            target = sanitize(exc.response.headers.get("Location", ""))
            return OSError(f"redirects to {target!r}, which is not followed; name that address instead")
        return exc


async def open_websocket(
    url: str, *, only_public: bool = False, timeouts: Timeouts = DEFAULT_TIMEOUTS
) -> ClientConnection:
    """Connect to a relay, if `only_public` at a public address only; raises TransportError."""
    local, proxy = is_loopback(url), find_proxy(url)
    try:
        address: dict[str, Any] = {"host": await _public_address(url, timeouts)} if only_public else {}
        return await _Connect(
            url,
            **address,  # a checked address is not resolved again
            max_size=MAX_FRAME,
            max_queue=16,
            open_timeout=timeouts.connect_s,
            close_timeout=0.5,  # a mute relay does not delay the end
            compression=None if local else "deflate",
            proxy=proxy.url if proxy else None,
        )
    except (OSError, ValueError, WebSocketException) as error:  # ValueError: an impossible host name
        through = f" (through the proxy {proxy})" if proxy else ""
        raise TransportError(f"{url}: {describe_error(error)}{through}") from None


def acknowledge_at_once(opened: ClientConnection) -> None:
    """Have the kernel acknowledge the next packets at once.

    Otherwise it may wait for 40 ms, and a relay without TCP_NODELAY holds the end of its answer back for as long. The
    kernel forgets the setting, so it is repeated for each message. Linux only.
    """
    option = getattr(socket, "TCP_QUICKACK", None)
    connected = opened.transport.get_extra_info("socket")
    if option is not None and connected is not None:
        with contextlib.suppress(OSError):  # closed meanwhile
            connected.setsockopt(socket.IPPROTO_TCP, option, 1)


def describe_error(error: Exception) -> str:
    """Describe an error of the operating system or a library in a few words, without its class name."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return sanitize(str(error)) or type(error).__name__


async def _public_address(url: str, timeouts: Timeouts) -> str:
    """Resolve the host of a `wss` address; raises TransportError unless every result is publicly routable."""
    if find_proxy(url):
        raise TransportError(f"{url}: not connected through a proxy, which hides the relay's real address")
    parts = urlsplit(url)
    async with asyncio.timeout(timeouts.connect_s):
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    if not addresses or not all(map(is_public, addresses)):
        raise TransportError(f"{url}: not a public address")
    return addresses[0]
