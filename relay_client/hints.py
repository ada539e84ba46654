"""Relay addresses that came inside an event or a name: whoever wrote it chose them. No I/O.

Following one tells a stranger's server that we are here, and could make us knock at doors inside our own network. So
a hint is used only if it is `wss://` and public, few are, and only where the user's own relays lack something.
"""

import ipaddress
from collections.abc import Container, Iterable
from urllib.parse import urlsplit

from relay_client.errors import CallerError
from relay_client.url import normalize_url

MAX_HINTS = 3

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".onion")


def usable_hints(raw_hints: Iterable[str], known: Container[str]) -> list[str]:
    """The first few hints that may be followed, in one spelling, without those that are known already.

    A host name may still lead to a private address: check what it resolves to with `is_public` before connecting.
    """
    urls = dict.fromkeys(url for url in map(_checked, raw_hints) if url and url not in known)
    return list(urls)[:MAX_HINTS]


def is_public(raw_address: str) -> bool:
    """Whether an IP address is one of the open internet's; one that is none is not."""
    try:
        address = ipaddress.ip_address(raw_address)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None,))[0]
        if inner or address in _NAT64:
            return is_public(str(inner or ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


def _checked(raw_hint: str) -> str | None:
    try:
        url = normalize_url(raw_hint)
    except CallerError:
        return None
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme != "wss" or not _is_public_host(host):
        return None
    return url


def _is_public_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." in host and not host.endswith(_LOCAL_SUFFIXES) and not host.rpartition(".")[2].isdigit()
    return is_public(host)
