"""The proxy to reach a relay through: one decision for its websocket and its NIP-11 document. Reads the environment."""

import urllib.request
from dataclasses import dataclass

from yarl import URL

from relay_client.errors import TransportError
from relay_client.messages import sanitize
from relay_client.url import is_loopback, parse_address

_SUPPORTED = {"http", "https"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy."""

    url: str  # with user and password, if it has any

    def __str__(self) -> str:
        """Return its address without user and password."""
        return str(URL(self.url).with_user(None))


def find_proxy(url: str) -> Proxy | None:
    """Return the proxy for a relay from the environment (or the system's settings on macOS); None for none.

    For `wss://` the first of `wss_proxy`, `https_proxy`, `all_proxy`; for `ws://` of `ws_proxy`, `https_proxy` (RFC
    6455), `http_proxy`, `all_proxy`; with `no_proxy` for exceptions. Relays on this machine are reached directly.

    Raises:
        TransportError: The proxy is of a kind that is not supported, or its address is wrong.
    """
    target = URL(url)
    if is_loopback(url) or urllib.request.proxy_bypass(f"{target.raw_host}:{target.port}"):
        return None
    found = urllib.request.getproxies()
    names = ("wss", "https", "all", "socks") if target.scheme == "wss" else ("ws", "https", "http", "all", "socks")
    name = next((name for name in names if found.get(name)), None)
    if name is None:
        return None
    proxy = _parse(found[name])
    if proxy is None or proxy.scheme not in _SUPPORTED:
        shown = sanitize(str(proxy.with_user(None))) if proxy else "no address"  # never with its password
        raise TransportError(
            f"{url}: the proxy in {name}_proxy cannot be used: {shown}; set it to http://HOST:PORT, or unset it"
        )
    return Proxy(url=str(proxy))


def _parse(raw_proxy: str) -> URL | None:
    try:
        proxy = parse_address(raw_proxy if "://" in raw_proxy else f"http://{raw_proxy}")
    except ValueError:
        return None
    return proxy if proxy.raw_host else None
