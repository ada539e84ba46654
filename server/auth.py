"""Checks on a request's headers: bearer token, Host and Origin. No I/O."""

import hmac
import ipaddress
import re
from collections.abc import Collection, Sequence

from yarl import URL

from relay_client.errors import CallerError, quote
from relay_client.url import parse_address

_LABEL = "[A-Za-z0-9_-]+"
_HOST = re.compile(rf"(?:\[(?P<ip>[0-9A-Fa-f:.]+)\]|(?P<name>{_LABEL}(?:\.{_LABEL})*)\.?)(?P<port>:[0-9]{{0,5}})?")
_MAX_NAME = 253  # characters of a DNS name
_DEFAULT_PORTS = {"http": 80, "https": 443}


def find_key(api_keys: Sequence[str], raw_authorization: str | None) -> int | None:
    """Return the index of the key in an Authorization header, in constant time; None if it has none of them."""
    scheme, _, token = (raw_authorization or "").partition(" ")
    given, found = _encoded(token.strip()), None
    for index, key in enumerate(api_keys):
        if hmac.compare_digest(given, _encoded(key)):
            found = index
    return found if scheme.lower() == "bearer" else None


def is_host_allowed(hosts: Collection[str], raw_host: str | None) -> bool:
    """Return True if a Host header is well-formed and names one of `hosts`, on any port; without hosts, any name.

    This stops DNS rebinding: a web page that reaches this server through a name of its own.
    """
    if not raw_host:
        return not hosts
    found = _split_host(raw_host)
    return found is not None and (not hosts or found[0] in hosts)


def is_origin_allowed(origins: Collection[str], raw_origin: str | None, raw_host: str | None) -> bool:
    """Return True if a request comes from no web page, from our own, or from one of `origins` (`*`: all)."""
    if raw_origin is None or "*" in origins or raw_origin in origins:
        return True
    return raw_origin.partition("://")[2] == raw_host


def canonical_host(raw_name: str) -> str:
    """Return a host name or IP address in the form that Host headers are compared in; raises CallerError.

    Names in lower case, international ones in Punycode; IP addresses in their shortest form, without brackets and zone.
    """
    name = raw_name.strip()
    try:
        if ":" in name:
            return ipaddress.IPv6Address(name.removeprefix("[").removesuffix("]")).compressed.partition("%")[0]
        found = _split_host(name if name.isascii() else URL.build(scheme="http", host=name).raw_host or "")
    except ValueError:
        found = None
    if found:
        return found[0]
    nearby = _split_host(name.partition("://")[2].partition("/")[0] or name)
    hint = f"; did you mean {nearby[0]}?" if nearby and len(nearby[0]) <= _MAX_NAME else ""
    raise CallerError(f"--allow-host {quote(raw_name)}: expected a host name or IP address, no port{hint}")


def canonical_origin(raw_origin: str) -> str:
    """Return an origin as browsers send it; raises CallerError.

    Scheme and host in lower case, without the scheme's default port and without a slash. `*` and `null` stay.
    """
    text = raw_origin.strip()
    if text in {"*", "null"}:
        return text
    try:
        url = parse_address(text)
        host = url.raw_host or ""
        found = _split_host(f"[{host}]" if ":" in host else host)
        if found and url.scheme and url == url.origin():
            port = f":{url.port}" if url.port and url.port != _DEFAULT_PORTS.get(url.scheme) else ""
            return f"{url.scheme}://{f'[{found[0]}]' if ':' in found[0] else found[0]}{port}"
    except ValueError:
        pass
    raise CallerError(f"--allow-origin {quote(raw_origin)}: expected an origin such as https://app.example, or *")


def _split_host(raw_host: str) -> tuple[str, str] | None:
    """Return the canonical host and the port (with its colon) of a Host header; None if it is malformed."""
    found = _HOST.fullmatch(raw_host)
    if found is None:
        return None
    try:
        host = ipaddress.IPv6Address(found["ip"]).compressed if found["ip"] else found["name"].lower()
    except ValueError:
        return None
    return host, found["port"] or ""


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
