"""Addresses of Blossom servers: origins, and which addresses from events and redirects may be followed. No I/O.

An origin that the user typed may be any `http` or `https` server. One from an event, and the target of a redirect, is a
stranger's choice: only `https`, and only at public addresses.
"""

import re
from collections.abc import Container, Iterable
from urllib.parse import urljoin, urlsplit

from relay_client.errors import CallerError, InvalidResponse, quote
from relay_client.hints import is_public_host
from relay_client.url import normalize_origin, parse_address

MAX_SERVERS = 16  # `server` tags of one event
MAX_HINTED_SERVERS = 3

_HASH = re.compile("[0-9a-f]{64}")


def normalize_server(raw_url: str) -> str:
    """Return the origin of a server that the user named, in canonical form: `https://blobs.example`.

    Raises:
        CallerError: It is not an origin.
    """
    try:
        origin, path = normalize_origin(raw_url.strip(), ("http", "https"))
    except ValueError:
        raise CallerError(f"not a server's address: {quote(raw_url)} (expected https://blobs.example)") from None
    if path:
        raise CallerError(f"a server is named without a path: {origin}, not {quote(raw_url)}")
    return origin


def host_of(origin: str) -> str:
    """Return the host of an origin, as the `server` tag of a token names it (BUD-11)."""
    host = urlsplit(origin).hostname or ""
    return f"[{host}]" if ":" in host else host


def is_public_origin(text: str) -> bool:
    """Return whether a text is the canonical origin of an `https` server that may be public."""
    try:
        origin, path = normalize_origin(text, ("https",))
    except ValueError:
        return False
    return (origin, path) == (text, "") and is_public_host(urlsplit(origin).hostname or "")


def usable_servers(raw_origins: Iterable[str], known: Container[str]) -> list[str]:
    """Return the first few servers named by events that are safe to follow, without those in `known`.

    A host name may still resolve to a private address: the connection checks it.
    """
    return [origin for origin in dict.fromkeys(raw_origins) if is_public_origin(origin) and origin not in known][
        :MAX_HINTED_SERVERS
    ]


def blob_url(origin: str, sha256: bytes) -> str:
    """Return the address of a blob (BUD-01). The `url` that a server gives for it is never used."""
    return f"{origin}/{sha256.hex()}"


def last_hash(path: str) -> bytes | None:
    """Return the last SHA-256 in the path of an address, which names the blob (BUD-01); None if there is none."""
    found = _HASH.findall(path)
    return bytes.fromhex(found[-1]) if found else None


def redirect_target(raw_location: str, *, url: str, sha256: bytes) -> str:
    """Return the address that a redirected request for a blob goes to.

    Args:
        raw_location: The header `Location`.
        url: Address of the request.
        sha256: Hash of the blob.

    Raises:
        InvalidResponse: It must not be followed: it is neither on the same server nor a public `https` address, or
            its path does not end in the same hash.
    """
    try:
        target = parse_address(urljoin(url, raw_location))
        origin, _ = normalize_origin(str(target.with_fragment(None)), ("http", "https"))
        here, _ = normalize_origin(url, ("http", "https"))
    except ValueError:
        raise InvalidResponse(f"redirects to {quote(raw_location)}, which is no address") from None
    if last_hash(target.raw_path) != sha256:
        raise InvalidResponse(f"redirects to {quote(raw_location)}, which is another blob")
    if origin != here and not is_public_origin(origin):
        raise InvalidResponse(f"redirects to {quote(raw_location)}, which is not a public https address")
    return str(target.with_fragment(None))
