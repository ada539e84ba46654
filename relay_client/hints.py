"""Relay hints: untrusted addresses found in events and references, and which of them are safe to follow. No I/O.

Following a hint reveals our address to a server that a stranger chose, and could reach into the user's own network
(SSRF). So few hints are used, only `wss://` at public addresses, and only if the user's own relays lack something.
"""

import ipaddress
from collections.abc import Container, Iterable
from urllib.parse import urlsplit

from relay_client.errors import CallerError
from relay_client.url import normalize_url

MAX_HINTS = 3

_UNICAST = ipaddress.IPv6Network("2000::/3")  # all of IPv6 that is assigned for public routing
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "3fff::/20",  # documentation
            "192.88.99.0/24",  # anycast relays from 6to4
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".onion")


def usable_hints(raw_hints: Iterable[str], known: Container[str]) -> list[str]:
    """Return the first few hints that are safe to follow, in canonical form, without those in `known`.

    A host name may still resolve to a private address: check the result with `is_public` before connecting.
    """
    urls = dict.fromkeys(url for url in map(_checked, raw_hints) if url and url not in known)
    return list(urls)[:MAX_HINTS]


def is_usable_hint(raw_url: str) -> bool:
    """Return whether others may follow this address from an event of ours."""
    return _checked(raw_url) is not None


def is_public(raw_address: str) -> bool:
    """Return whether a text is a publicly routable IP address."""
    try:
        address = ipaddress.ip_address(raw_address)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner or address in _NAT64:
            return is_public(str(inner or ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
        if address not in _UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_PUBLIC)


def _checked(raw_hint: str) -> str | None:
    try:
        url = normalize_url(raw_hint)
    except CallerError:
        return None
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme != "wss" or not is_public_host(host):
        return None
    return url


def is_public_host(host: str) -> bool:
    """Return whether a host can be public: a publicly routable IP address, or a name that is not a local one."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." in host and not host.endswith(_LOCAL_SUFFIXES) and not host.rpartition(".")[2].isdigit()
    return is_public(host)
