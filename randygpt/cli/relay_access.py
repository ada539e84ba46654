"""Access to `randygpt relay`: who may write, and at which address the network reaches it. Reads keys and trust list."""

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from randygpt.cli.output import format_size, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home
from relay_client.errors import quote
from relay_client.nip19 import decode_pubkey, encode_npub

if TYPE_CHECKING:
    from relay_client.relay_limits import RelayLimits

_ANY_PUBLIC = "192.0.2.1"  # an address of no machine (RFC 5737), to find this machine's own; nothing is sent to it


def parse_address(host: str) -> str:
    """Return the IP address to listen on; raises CallerError."""
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]")))
    except ValueError:
        raise CallerError(f"--host {quote(host)}: expected an IP address, such as 0.0.0.0 for all of them") from None


def allowed_authors(allow: list[str] | None, address: str) -> frozenset[bytes]:
    """Return who may write: those named, else the user and the authors on the trust list; raises CallerError."""
    if allow:
        return frozenset(map(decode_pubkey, allow))
    home = Home.from_environment()
    try:
        own = _own_key(home)
    except CallerError as error:
        print_stderr(f"note: your own key may not write: {error}; name it with --allow")
        own = frozenset()
    authors = own | _trusted(home)
    if not authors:
        raise CallerError(
            f"{address} is reachable from the network, and you have neither a key nor a trusted author: "
            "pass --allow NPUB, or --open to accept events of every author"
        )
    return authors


def may_write(allow: list[str] | None) -> Callable[[bytes], bool]:
    """Return whether a key may upload: it is named, or the user's, or on the trust list at that moment."""
    if allow:
        return frozenset(map(decode_pubkey, allow)).__contains__
    home = Home.from_environment()

    def is_known(pubkey: bytes) -> bool:
        with contextlib.suppress(CallerError):  # an encrypted key whose public key is not known
            if pubkey in _own_key(home):
                return True
        return pubkey in _trusted(home)

    return is_known


def _trusted(home: Home) -> frozenset[bytes]:
    from distribution.trust_list import TrustStore

    return frozenset(TrustStore(home.folder).read().names)


def _own_key(home: Home) -> frozenset[bytes]:
    """Return the user's public key, nothing without a key; raises CallerError if it cannot be read."""
    from randygpt.user.signer import find_identity

    def refuse(origin: str) -> str:
        raise CallerError(f"{origin} is encrypted")

    has_key = home.key_path.exists() or home.pairing_path.exists()
    return frozenset({find_identity(home, None, refuse).pubkey}) if has_key else frozenset()


def describe_limits(limits: "RelayLimits") -> str:
    """Return in words what a relay accepts."""
    writers = "every author" if limits.authors is None else f"{len(limits.authors)} author(s)"
    return (
        f"accepts events of {writers}: up to {format_size(limits.max_event_size)} each, "
        f"{format_size(limits.max_total_size)} in all, {limits.events_per_minute:,} a minute from one address"
    )


def network_url(address: str, port: int, scheme: str = "ws") -> str:
    """Return the URL under which the network reaches a relay; a loopback URL if this machine has no network."""
    reachable = address
    if ipaddress.ip_address(address).is_unspecified:
        family, loopback = (socket.AF_INET6, "::1") if ":" in address else (socket.AF_INET, "127.0.0.1")
        reachable = _own_address(family) or loopback
    return f"{scheme}://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


def network_warnings(url: str, limits: "RelayLimits | None") -> list[str]:
    """Return what the user should know about a relay that the network reaches."""
    written = "; ANYONE who reaches it can write" if limits and limits.authors is None else ""
    return [
        f"WARNING: the network reaches this relay at {url}, unencrypted{written}",
        "everyone who reaches it can read all of its events; see docs/share-with-a-friend.md",
    ]


def _own_address(family: int) -> str | None:
    """Return this machine's address towards other networks, None if it has none. Sends nothing."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("2001:db8::1" if family == socket.AF_INET6 else _ANY_PUBLIC, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def npubs(limits: "RelayLimits | None") -> list[str] | None:
    """Return the authors who may write, for JSON; None if everyone may."""
    return None if limits is None or limits.authors is None else sorted(map(encode_npub, limits.authors))
