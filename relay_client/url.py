"""Addresses of relays (`ws://`, `wss://`) in one canonical form, so that each relay counts once. No I/O."""

import ipaddress
import re
from collections.abc import Collection

import idna
from yarl import URL

from relay_client.errors import CallerError, quote

_LONGEST_ADDRESS = 2_000  # characters
_LONGEST_NAME = 253  # the same (RFC 1035)
_BYTE = 0xFF
_LONGEST_NUMBER = 16  # digits of a number in an IPv4 address
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label that makes a host an IPv4 address (WHATWG URL)


def normalize_url(raw_url: str) -> str:
    """Return a relay's address in canonical form (RFC 3986; hosts as in the WHATWG URL standard).

    Lower-case scheme and host, names in ASCII (IDNA) and without a dot at the end, IP addresses in their short form, no
    default port, and no slash if that is the whole path. Elsewhere a slash at the end of the path counts.

    Raises:
        CallerError: It is not the address of a relay.
    """
    try:
        return "".join(normalize_origin(raw_url.strip(), ("ws", "wss")))
    except ValueError:  # also of idna and yarl
        raise CallerError(f"not a relay's address: {quote(raw_url)} (expected wss://relay.example)") from None


def parse_address(raw_text: str) -> URL:
    """Return an address in its parts; raises ValueError if a text is none."""
    try:
        return URL(raw_text)
    except IndexError:  # yarl: a bracket after a user's name without a host
        raise ValueError("no host") from None


def is_loopback(url: str) -> bool:
    """Return whether a relay's address names this machine."""
    return is_loopback_host(URL(url).raw_host or "")


def is_loopback_host(host: str) -> bool:
    """Return whether a host name or IP address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def normalize_origin(text: str, schemes: Collection[str]) -> tuple[str, str]:
    """Split an address into its origin, in canonical form, and its path and query; `/` counts as no path.

    Raises:
        ValueError: It is not an address with one of these schemes, or it names a user or a fragment.
    """
    url = parse_address(text)
    if url.scheme not in schemes or not url.raw_host or url.port == 0:
        raise ValueError("no such address")
    if url.raw_user is not None or url.raw_password is not None or url.raw_fragment:
        raise ValueError("user or fragment")
    if len(text) > _LONGEST_ADDRESS or not text.isprintable():
        raise ValueError("too long, or not printable")
    host = _normalize_host(url.raw_host if ":" in url.raw_host else _typed_host(text))
    port = "" if url.is_default_port() else f":{url.port}"
    return f"{url.scheme}://{host}{port}", "" if url.raw_path_qs == "/" else url.raw_path_qs


def _typed_host(text: str) -> str:
    """Return the host of an address as it was typed; yarl encodes names by an older standard than idna."""
    authority = re.split(r"[/?#]", text.partition("://")[2], maxsplit=1)[0]
    return authority.rpartition(":")[0] if ":" in authority else authority


def _normalize_host(raw_host: str) -> str:
    if ":" in raw_host and "%" not in raw_host:  # a zone has a meaning on one machine only
        return f"[{ipaddress.IPv6Address(raw_host)}]"
    host = raw_host.lower() if raw_host.isascii() else idna.encode(raw_host, uts46=True).decode()
    host = host.removesuffix(".")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        return _normalize_ipv4(host)
    if len(host) > _LONGEST_NAME or not _NAME.fullmatch(host):
        raise ValueError("no host can have that name")
    return host


def _normalize_ipv4(host: str) -> str:
    """Return an IPv4 address in dotted form: `127.1`, `0x7f000001` and `0177.0.0.1` are 127.0.0.1."""
    *first, last = (_number(part) for part in host.split("."))
    size = 4 - len(first)  # bytes that the last number stands for
    if size < 1 or last >= 1 << 8 * size or any(number > _BYTE for number in first):
        raise ValueError("not an IPv4 address")
    return str(ipaddress.IPv4Address(bytes(first) + last.to_bytes(size, "big")))


def _number(text: str) -> int:
    base = 16 if text.startswith("0x") else 8 if text.startswith("0") else 10
    digits = text.removeprefix("0x")
    if not digits.isalnum() or len(digits) > _LONGEST_NUMBER:
        raise ValueError("not a number")
    return int(digits, base)
