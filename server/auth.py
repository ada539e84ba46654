"""Who may ask: the bearer token, the host and the origin in a request's headers. No I/O."""

import hmac
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

ANYBODY = -1


def find_key(api_keys: Sequence[str], raw_authorization: str | None) -> int | None:
    """Which of the keys an Authorization header carries, None if none; ANYBODY where there are no keys.

    Takes the same time whichever it is.
    """
    if not api_keys:
        return ANYBODY
    scheme, _, token = (raw_authorization or "").partition(" ")
    given, found = _encoded(token.strip()), None
    for index, key in enumerate(api_keys):
        if hmac.compare_digest(given, _encoded(key)):
            found = index
    return found if scheme.lower() == "bearer" else None


def is_host_served(hosts: Collection[str], raw_host: str | None) -> bool:
    """Whether a Host header names one of the hosts, whatever the port; without hosts, any will do.

    A page on the internet whose name is made to lead here does not get past this.
    """
    return not hosts or _name(f"//{raw_host or ''}") in hosts


def is_origin_welcome(origins: Collection[str], raw_origin: str | None, raw_host: str | None) -> bool:
    """Whether a request is of no web page, of one of our own, or of one whose origin is named (`*`: all)."""
    if raw_origin is None or "*" in origins or raw_origin in origins:
        return True
    return raw_origin.partition("://")[2] == raw_host


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
