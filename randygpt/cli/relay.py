"""`randygpt relay`: run a relay, for this machine or for a network."""

import asyncio
import contextlib
import ipaddress
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import systemd
from randygpt.cli.flags import Json, Quiet, is_flag_given, parse_size, validator
from randygpt.cli.output import emit, format_size, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home
from relay_client.blossom.address import normalize_server
from relay_client.blossom.blob_limits import BlobLimits
from relay_client.errors import quote
from relay_client.nip19 import decode_pubkey, encode_npub

if TYPE_CHECKING:
    from relay_client.local_relay import LocalRelay
    from relay_client.relay_limits import RelayLimits

EXAMPLE = "Example: randygpt relay --host 0.0.0.0 --allow npub1…"
_ANY_PUBLIC = "192.0.2.1"  # an address of no machine (RFC 5737), to find this machine's own; nothing is sent to it


def _check_types(types: list[str] | None) -> list[str] | None:
    """Check the media types of --blob-type."""
    try:
        BlobLimits(types=frozenset(types or ()))
    except CallerError as error:
        raise typer.BadParameter(str(error)) from None
    return types


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
    add: Annotated[bool, typer.Option("--add", help="Add the relay to your list, under its network address.")] = False,
    max_connections: Annotated[int, typer.Option(min=1, metavar="N", help="Open connections at once.")] = 256,
    blobs: Annotated[
        int | None, typer.Option(min=1, max=65535, metavar="PORT", help="Also run a Blossom server on this port.")
    ] = None,
    blobs_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Its public address, if a proxy is in front of it.",
            callback=validator(normalize_server),
        ),
    ] = None,
    max_blob_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Refuse larger blobs.", callback=validator(parse_size))
    ] = "512M",
    max_blobs_size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Refuse blobs when this much is stored.", callback=validator(parse_size)),
    ] = "20G",
    blob_type: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="Accept only this media type; repeat for more.", callback=_check_types),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a relay, and a Blossom server if --blobs is given, until Ctrl-C.

    A relay on 127.0.0.1 accepts everything. With another address, --allow or --open, the limits apply; without --allow
    and --open, it then accepts events of your own key and of the authors you trust. A Blossom server always does.
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
    url = _network_url(address, port) if is_public else running.url
    if is_public:
        notes += _warnings(url, limits)
    if add:
        _add_to_list(url)
        notes.append(f"{url} is on your list of relays")
    asyncio.run(
        _run(
            running,
            None
            if blobs is None
            else _BlobOptions(
                folder=folder,
                host=address,
                port=blobs,
                url=normalize_server(blobs_url) if blobs_url else "",
                limits=BlobLimits(
                    max_blob_size=parse_size(max_blob_size),
                    max_total_size=parse_size(max_blobs_size),
                    types=frozenset(blob_type or ()),
                ),
                may_upload=None if open_ else _may_write(allow),
            ),
            result={"data": str(folder) if folder else None, "authors": _npubs(limits)},
            notes=() if quiet else tuple(notes),
            as_json=as_json,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _BlobOptions:
    """The Blossom server to run with the relay."""

    folder: Path | None  # None: a temporary one
    host: str
    port: int
    url: str
    limits: BlobLimits
    may_upload: Callable[[bytes], bool] | None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Run the server; yield its origin."""
        from relay_client.blossom.local_server import LocalBlobServer

        with contextlib.ExitStack() as stack:
            folder = self.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="randygpt-blobs-")))
            async with LocalBlobServer(
                folder=folder / "blossom",
                host=self.host,
                port=self.port,
                url=self.url,
                limits=self.limits,
                may_upload=self.may_upload,
            ) as server:
                yield server.origin


async def _run(
    relay: "LocalRelay",
    blobs: _BlobOptions | None,
    *,
    result: dict[str, object],
    notes: tuple[str, ...],
    as_json: bool,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(relay)
        origin = await stack.enter_async_context(blobs.running()) if blobs else None
        lines = filter(None, (running.url, origin))
        emit(as_json, {"relay": running.url, "blobs": origin, **result}, "\n".join(lines))
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


def _may_write(allow: list[str] | None) -> Callable[[bytes], bool]:
    """Return whether a key may upload: it is named, or the user's, or on the trust list at that moment."""
    if allow:
        return frozenset(map(decode_pubkey, allow)).__contains__
    home = Home.from_environment()

    def is_known(pubkey: bytes) -> bool:
        with contextlib.suppress(CallerError):  # an encrypted key
            if pubkey in _own_key(home):
                return True
        return pubkey in _trusted(home)

    return is_known


def _trusted(home: Home) -> frozenset[bytes]:
    from distribution.trust_list import TrustStore

    return frozenset(TrustStore(home.folder).read().names)


def _own_key(home: Home) -> frozenset[bytes]:
    """Return the user's public key, nothing without a key; raises CallerError if it cannot be read."""
    from randygpt.user import signing_key

    def refuse(origin: str) -> str:
        raise CallerError(f"{origin} is encrypted")

    return frozenset({signing_key.find(home, None, refuse).key.pubkey}) if home.key_path.exists() else frozenset()


def _describe(limits: "RelayLimits") -> str:
    writers = "every author" if limits.authors is None else f"{len(limits.authors)} author(s)"
    return (
        f"accepts events of {writers}: up to {format_size(limits.max_event_size)} each, "
        f"{format_size(limits.max_total_size)} in all, {limits.events_per_minute:,} a minute from one address"
    )


def _network_url(address: str, port: int) -> str:
    """Return the URL under which the network reaches a relay; a loopback URL if this machine has no network."""
    reachable = address
    if ipaddress.ip_address(address).is_unspecified:
        family, loopback = (socket.AF_INET6, "::1") if ":" in address else (socket.AF_INET, "127.0.0.1")
        reachable = _own_address(family) or loopback
    return f"ws://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


def _add_to_list(url: str) -> None:
    """Add a relay to the user's list."""
    home = Home.from_environment()
    added = home.added_relays()
    if url not in (*home.configured_relays, *added):
        home.write_relays([*added, url])


def _warnings(url: str, limits: "RelayLimits | None") -> list[str]:
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


def _npubs(limits: "RelayLimits | None") -> list[str] | None:
    return None if limits is None or limits.authors is None else sorted(map(encode_npub, limits.authors))
