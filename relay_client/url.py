"""Addresses of relays (`ws://`, `wss://`) in one canonical form. No I/O."""

import ipaddress
from urllib.parse import urlsplit

from relay_client.errors import CallerError


def normalize_url(raw_url: str) -> str:
    """Return a relay's address in canonical form, without a trailing slash; raises CallerError."""
    try:
        parts = urlsplit(raw_url.strip())
        _ = parts.port  # raises for a port out of range
    except ValueError as error:
        raise CallerError(f"not a relay's address: {raw_url!r} ({error})") from None
    is_invalid = "@" in parts.netloc or parts.query or parts.fragment or not parts.geturl().isprintable()
    if parts.scheme not in {"ws", "wss"} or not parts.hostname or is_invalid:
        raise CallerError(f"not a relay's address: {raw_url!r} (expected wss://relay.example)")
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
