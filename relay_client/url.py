"""The addresses of relays. No I/O."""

import ipaddress
from urllib.parse import urlsplit

from relay_client.errors import CallerError


def normalize_url(raw_url: str) -> str:
    """A relay's address in one spelling (no slash at the end); raises CallerError."""
    try:
        parts = urlsplit(raw_url.strip())
        _ = parts.port  # may raise as well
    except ValueError as error:
        raise CallerError(f"not a relay's address: {raw_url!r} ({error})") from None
    foreign = "@" in parts.netloc or parts.query or parts.fragment or not parts.geturl().isprintable()
    if parts.scheme not in {"ws", "wss"} or not parts.hostname or foreign:
        raise CallerError(f"not a relay's address: {raw_url!r} (it looks like wss://relay.example)")
    return parts._replace(netloc=parts.netloc.lower()).geturl().rstrip("/")


def is_loopback(url: str) -> bool:
    """Return whether a relay's address names this machine."""
    return is_loopback_host(urlsplit(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Return whether a host name or IP address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
