"""`randygpt relay`: run a relay, for this machine or for a network."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import systemd
from randygpt.cli.flags import Json, Quiet, is_flag_given, parse_size, validator
from randygpt.cli.output import emit, print_stderr
from randygpt.cli.relay_access import (
    allowed_authors,
    describe_limits,
    may_write,
    network_url,
    network_warnings,
    npubs,
    parse_address,
)
from randygpt.errors import CallerError
from randygpt.user.home import Home
from relay_client.blossom.address import normalize_server
from relay_client.blossom.blob_limits import BlobLimits
from relay_client.nip19 import decode_pubkey

if TYPE_CHECKING:
    from relay_client.local_relay import LocalRelay

EXAMPLE = "Example: randygpt relay --host 0.0.0.0 --allow npub1…"


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
    add: Annotated[bool, typer.Option("--add", help="Add it to your lists, under its network address.")] = False,
    max_connections: Annotated[int, typer.Option(min=1, metavar="N", help="Open connections at once, to each.")] = 256,
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
    and --open, it then accepts events of your own key and of the authors you trust. The Blossom server accepts uploads
    of the same keys, on 127.0.0.1 too.
    """
    from relay_client.local_relay import LocalRelay
    from relay_client.relay_limits import RelayLimits
    from relay_client.url import is_loopback_host

    address = parse_address(host)
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
            authors=None if open_ else allowed_authors(allow, address),
            max_event_size=parse_size(max_event_size),
            max_total_size=parse_size(max_total_size),
            events_per_minute=max_rate,
            max_connections=max_connections,
        )
    folder = None if memory else data or _default_folder()
    running = LocalRelay(port=port, folder=folder, host=address, limits=limits)
    notes = [f"events are kept in {folder}" if folder else "events are kept in memory and are lost at exit"]
    if limits:
        notes.append(describe_limits(limits))
    url = network_url(address, port) if is_public else running.url
    server = blobs_url or network_url(address, blobs, "http") if blobs else None
    if is_public:
        notes += network_warnings(url, limits)
    if server:
        uploaders = "every key" if open_ else "the authors named" if allow else "your key and the authors you trust"
        notes.append(f"stores files at {server}, uploaded by {uploaders}")
    if add:
        notes += [f"{each} is on your list of {kind}" for kind, each in (("relays", url), ("servers", server)) if each]
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
                    max_connections=max_connections,
                    types=frozenset(blob_type or ()),
                ),
                may_upload=None if open_ else may_write(allow),
            ),
            result={"data": str(folder) if folder else None, "authors": npubs(limits)},
            notes=() if quiet else tuple(notes),
            on_start=partial(_add_to_lists, url, normalize_server(server) if server else None) if add else lambda: None,
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
    on_start: Callable[[], None],
    as_json: bool,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(relay)
        origin = await stack.enter_async_context(blobs.running()) if blobs else None
        on_start()
        lines = filter(None, (running.url, origin))
        emit(as_json, {"relay": running.url, "blobs": origin, **result}, "\n".join(lines))
        for note in notes:
            print_stderr(note)
        systemd.notify(status=running.url, ready=True)
        async with systemd.watchdog(running.check):
            await asyncio.Event().wait()


def _default_folder() -> Path:
    """Return the relay's folder in the home folder; raises CallerError without one."""
    try:
        return Home.from_environment().folder / "relay"
    except CallerError as error:
        raise CallerError(f"{error}, or pass --data DIR or --memory") from None


def _add_to_lists(relay: str, server: str | None) -> None:
    """Add a relay, and a Blossom server if there is one, to the user's lists."""
    home = Home.from_environment()
    relays, servers = home.added_relays(), home.servers()
    if relay not in (*home.configured_relays, *relays):
        home.write_relays([*relays, relay])
    if server and server not in servers:
        home.write_servers([*servers, server])
