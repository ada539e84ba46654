"""`randygpt servers`: the list of Blossom servers to use, and whether they take model files."""

import asyncio
import secrets
import time
from typing import Annotated

import typer

from randygpt.cli.flags import Json, Quiet, Relays
from randygpt.cli.keys import KeyFile, PasswordFile, signing_key
from randygpt.cli.output import emit
from randygpt.cli.usage import Group
from randygpt.errors import CallerError, PeerError, TransportError
from randygpt.user.home import Home

app = typer.Typer(
    cls=Group,
    help="Manage the Blossom servers to publish to and fetch from.",
    epilog="Example: randygpt servers add https://blobs.example",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Server, such as https://blobs.example.")]


@app.command("add", epilog="Example: randygpt servers add https://blobs.example")
def add(url: Url, as_json: Json = False, _quiet: Quiet = False) -> None:
    """Add a server to your list."""
    from relay_client.blossom.address import normalize_server

    home, origin = Home.from_environment(), normalize_server(url)
    servers = home.servers()
    if origin not in servers:
        home.write_servers([*servers, origin])
    _changed(home, as_json=as_json)


@app.command("remove", epilog="Example: randygpt servers remove https://blobs.example")
def remove(url: Url, as_json: Json = False, _quiet: Quiet = False) -> None:
    """Remove a server from your list."""
    from relay_client.blossom.address import normalize_server

    home, origin = Home.from_environment(), normalize_server(url)
    servers = home.servers()
    if origin not in servers:
        raise CallerError(f"{origin} is not on your list")
    home.write_servers([other for other in servers if other != origin])
    _changed(home, as_json=as_json)


def _changed(home: Home, *, as_json: bool) -> None:
    """Print the new list as JSON; print nothing for a person."""
    if as_json:
        emit(as_json, {"servers": home.servers()}, "")


@app.command("list", epilog="Example: randygpt servers list")
def list_(as_json: Json = False, _quiet: Quiet = False) -> None:
    """Print your list of servers."""
    servers = Home.from_environment().servers()
    if servers or as_json:
        emit(as_json, {"servers": servers}, "\n".join(servers))


@app.command("check", epilog="Example: randygpt servers check https://blobs.example")
def check(
    urls: Annotated[
        list[str] | None, typer.Argument(metavar="URL", help="Servers to ask; default: those on your list.")
    ] = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Ask servers whether they take model files; nothing is uploaded.

    Exit code 4 if none of them does.
    """
    from relay_client.blossom.address import normalize_server

    origins = list(dict.fromkeys(map(normalize_server, urls or Home.from_environment().servers())))
    if not origins:
        raise CallerError("no servers on your list: name a URL, or add one with `randygpt servers add URL`")
    refusals = asyncio.run(_refusals(origins))
    result = {origin: {"accepts": not reason, "reason": reason} for origin, reason in refusals.items()}
    lines = [reason or f"{origin}: does not refuse model files of 16 MB" for origin, reason in refusals.items()]
    emit(as_json, {"servers": result}, "\n".join(lines))
    if all(refusals.values()):
        raise typer.Exit(4)


@app.command("publish", epilog="Example: randygpt servers publish")
def publish(
    relay: Relays = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish your list of servers under your key (BUD-03, kind 10063).

    Your servers are added to the list that your relays have; what it names stays on it. Only public https servers are
    published.
    """
    from randygpt.cli.published_list import show_published
    from randygpt.own_lists import publish_servers
    from relay_client.blossom.address import is_public_origin

    home = Home.from_environment()
    listed = home.servers()
    origins = [origin for origin in listed if is_public_origin(origin)]
    if not listed:
        raise CallerError("no servers on your list: add one with `randygpt servers add URL`")
    if not origins:
        raise CallerError(f"none of your servers is a public https server: {', '.join(listed)}")
    urls, key = home.resolve_relays(relay), signing_key(home, key_file, password_file)
    published = asyncio.run(publish_servers(urls, key, origins, now=int(time.time())))
    not_public = [origin for origin in listed if origin not in origins]
    show_published(
        published, "servers", not_public=not_public, noun="public https server", as_json=as_json, quiet=quiet
    )


async def _refusals(origins: list[str]) -> dict[str, str]:
    """Return why each server would not take a piece of a large model; empty if it does not refuse."""
    from distribution.source import BLOB_SIZE
    from relay_client.blossom.client import BlossomClient

    async def ask(origin: str) -> str:
        async with BlossomClient(origin) as client:
            try:
                await client.check_upload(secrets.token_bytes(32), BLOB_SIZE)
            except (TransportError, PeerError) as error:
                return str(error)
        return ""

    return dict(zip(origins, await asyncio.gather(*map(ask, origins)), strict=True))
