"""`randygpt relays`, the list of relays you use, and `randygpt relay`, one of your own."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from randygpt.cli import systemd
from randygpt.cli.output import Json, Quiet, emit, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home

RELAY_EXAMPLE = "Example: randygpt relay --port 7777 --data ./relay-data"

app = typer.Typer(
    help="The relays you publish to and fetch from.",
    epilog="Example: randygpt relays add wss://relay.example",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Like wss://relay.example")]


@app.command("add", epilog="Example: randygpt relays add wss://relay.example")
def add(url: Url, as_json: Json = False, _quiet: Quiet = False) -> None:
    """Put a relay on your list."""
    from relay_client.url import normalize_url

    home, relay = Home.from_environment(), normalize_url(url)
    added = home.added_relays()
    if relay not in (*home.configured_relays, *added):
        home.write_relays([*added, relay])
    _changed(home, as_json=as_json)


@app.command("remove", epilog="Example: randygpt relays remove wss://relay.example")
def remove(url: Url, as_json: Json = False, _quiet: Quiet = False) -> None:
    """Take a relay off your list."""
    from relay_client.url import normalize_url

    home, relay = Home.from_environment(), normalize_url(url)
    added = home.added_relays()
    if relay not in added:
        settled = "named by a setting, see `randygpt config show`: take it out there"
        raise CallerError(f"{relay} is {settled if relay in home.configured_relays else 'not on your list'}")
    home.write_relays([other for other in added if other != relay])
    _changed(home, as_json=as_json)


def _changed(home: Home, *, as_json: bool) -> None:
    """A change that went well needs no words; a script gets the list."""
    if as_json:
        emit(as_json, {"relays": home.relays()}, "")


@app.command("list", epilog="Example: randygpt relays list")
def list_(as_json: Json = False, _quiet: Quiet = False) -> None:
    """Print your list."""
    relays = Home.from_environment().relays()
    if relays or as_json:
        emit(as_json, {"relays": relays}, "\n".join(relays))


def relay(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 7777,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep events here, not in memory.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a relay of your own on 127.0.0.1, in the foreground, until Ctrl-C."""
    asyncio.run(_relay(port, data, as_json=as_json, quiet=quiet))


async def _relay(port: int, data: Path | None, *, as_json: bool, quiet: bool) -> None:
    from relay_client.local_relay import LocalRelay

    async with LocalRelay(port=port, folder=data) as running:
        emit(as_json, {"relay": running.url, "data": str(data) if data else None}, running.url)
        where = f"events are kept in {data}" if data else "events are kept in memory, until this ends"
        if not quiet:
            print_stderr(where)
        systemd.notify(status=f"{running.url}: {where}", ready=True)
        async with systemd.watchdog(running.check):
            await asyncio.Event().wait()
