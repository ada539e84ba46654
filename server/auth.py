"""Checks on a request's headers: bearer token, Host and Origin. No I/O."""

import hmac
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit


def find_key(api_keys: Sequence[str], raw_authorization: str | None) -> int | None:
    """Return the index of the key in an Authorization header, in constant time; None if it has none of them."""
    scheme, _, token = (raw_authorization or "").partition(" ")
    given, found = _encoded(token.strip()), None
    for index, key in enumerate(api_keys):
        if hmac.compare_digest(given, _encoded(key)):
            found = index
    return found if scheme.lower() == "bearer" else None


def is_host_allowed(hosts: Collection[str], raw_host: str | None) -> bool:
    """Return True if a Host header names one of `hosts`, on any port; without hosts, always.

    This stops DNS rebinding: a web page that reaches this server through a name of its own.
    """
    return not hosts or _hostname(f"//{raw_host or ''}") in hosts


def is_origin_allowed(origins: Collection[str], raw_origin: str | None, raw_host: str | None) -> bool:
    """Return True if a request comes from no web page, from our own, or from one of `origins` (`*`: all)."""
    if raw_origin is None or "*" in origins or raw_origin in origins:
        return True
    return raw_origin.partition("://")[2] == raw_host


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
