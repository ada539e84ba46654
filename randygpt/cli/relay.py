"""`randygpt relay`: run a relay, for this machine or for a network."""

import asyncio
import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import systemd
from randygpt.cli.flags import Json, Quiet, is_flag_given, parse_size, validator
from randygpt.cli.output import emit, format_size, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home
from relay_client.errors import InvalidKey, quote
from relay_client.nip19 import decode_pubkey, encode_npub

if TYPE_CHECKING:
    from relay_client.local_relay import LocalRelay
    from relay_client.relay_limits import RelayLimits

EXAMPLE = "Example: randygpt relay --host 0.0.0.0 --allow npub1…"
_ANY_PUBLIC = "192.0.2.1"  # an address of no machine (RFC 5737), to find this machine's own; nothing is sent to it


def relay(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="Port to listen on.")] = 7777,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for the whole network.")
    ] = "127.0.0.1",
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep events in this folder, not in your home folder.")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Keep events in memory; they are lost at exit.")] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NPUB",
            help="Accept only events of this author; repeat for more.",
            callback=validator(decode_pubkey),
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Accept events of every author.")] = False,
    max_event_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Refuse larger events; at most 64K.", callback=validator(parse_size))
    ] = "64K",
    max_total_size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Refuse events when this much is stored.", callback=validator(parse_size)),
    ] = "2G",
    max_rate: Annotated[
        int, typer.Option(min=1, metavar="N", help="Delay an address that sends more events a minute.")
    ] = 6000,
    max_connections: Annotated[int, typer.Option(min=1, metavar="N", help="Open connections at once.")] = 256,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a relay until Ctrl-C.

    A relay on 127.0.0.1 accepts everything. With another address, --allow or --open, the limits apply; without --allow
    and --open, it then accepts events of your own key and of the authors you trust.
    """
    from relay_client.local_relay import LocalRelay
    from relay_client.relay_limits import RelayLimits
    from relay_client.url import is_loopback_host

    address = _parse_address(host)
    if memory and data:
        if is_flag_given(context, "data"):
            raise CallerError("--memory and --data exclude each other")
        data = None  # from a settings file
    if open_ and allow:
        raise CallerError("--open and --allow exclude each other")
    is_public = not is_loopback_host(address)
    limits = None
    if is_public or open_ or allow:
        limits = RelayLimits(
            authors=None if open_ else _authors(allow, address),
            max_event_size=parse_size(max_event_size),
            max_total_size=parse_size(max_total_size),
            events_per_minute=max_rate,
            max_connections=max_connections,
        )
    folder = None if memory else data or _default_folder()
    running = LocalRelay(port=port, folder=folder, host=address, limits=limits)
    notes = [f"events are kept in {folder}" if folder else "events are kept in memory and are lost at exit"]
    if limits:
        notes.append(_describe(limits))
    if is_public:
        notes += _warnings(address, port, limits)
    asyncio.run(_run(running, folder, limits, () if quiet else tuple(notes), as_json=as_json))


async def _run(
    relay: "LocalRelay", folder: Path | None, limits: "RelayLimits | None", notes: tuple[str, ...], *, as_json: bool
) -> None:
    authors = limits.authors if limits else None
    async with relay as running:
        result = {"relay": running.url, "data": str(folder) if folder else None}
        emit(as_json, result | {"authors": _npubs(authors) if authors is not None else None}, running.url)
        for note in notes:
            print_stderr(note)
        systemd.notify(status=running.url, ready=True)
        async with systemd.watchdog(running.check):
            await asyncio.Event().wait()


def _parse_address(host: str) -> str:
    """Return the IP address to listen on; raises CallerError."""
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]")))
    except ValueError:
        raise CallerError(f"--host {quote(host)}: expected an IP address, such as 0.0.0.0 for all of them") from None


def _default_folder() -> Path:
    """Return the relay's folder in the home folder; raises CallerError without one."""
    try:
        return Home.from_environment().folder / "relay"
    except CallerError as error:
        raise CallerError(f"{error}, or pass --data DIR or --memory") from None


def _authors(allow: list[str] | None, address: str) -> frozenset[bytes]:
    """Return who may write: those named, else the user and the authors on the trust list; raises CallerError."""
    if allow:
        return frozenset(map(decode_pubkey, allow))
    from distribution.trust_list import TrustStore

    home = Home.from_environment()
    authors = frozenset(TrustStore(home.folder).read().names) | _own_key(home)
    if not authors:
        raise CallerError(
            f"{address} is reachable from the network, and you have neither a key nor a trusted author: "
            "pass --allow NPUB, or --open to accept events of every author"
        )
    return authors


def _own_key(home: Home) -> frozenset[bytes]:
    """Return the user's public key, nothing without a key or if it is encrypted."""
    from randygpt.user import signing_key

    def refuse(origin: str) -> str:
        raise CallerError(f"{origin} is encrypted")

    if not home.key_path.exists():
        return frozenset()
    try:
        return frozenset({signing_key.find(home, None, refuse).key.pubkey})
    except InvalidKey:
        raise
    except CallerError as error:
        print_stderr(f"note: your own key may not write: {error}; name it with --allow")
        return frozenset()


def _describe(limits: "RelayLimits") -> str:
    writers = "every author" if limits.authors is None else f"{len(limits.authors)} author(s)"
    return (
        f"accepts events of {writers}: up to {format_size(limits.max_event_size)} each, "
        f"{format_size(limits.max_total_size)} in all, {limits.events_per_minute:,} a minute from one address"
    )


def _warnings(address: str, port: int, limits: "RelayLimits | None") -> list[str]:
    """Return what the user should know about a relay that the network reaches."""
    if ipaddress.ip_address(address).is_unspecified:
        reachable = _own_address(socket.AF_INET6 if ":" in address else socket.AF_INET) or "THIS-MACHINE"
    else:
        reachable = address
    url = f"ws://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"
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


def _npubs(authors: frozenset[bytes]) -> list[str]:
    return sorted(map(encode_npub, authors))
