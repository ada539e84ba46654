"""`randygpt relays`: the list of relays to use."""

from typing import Annotated

import typer

from randygpt.cli.flags import Json, Quiet
from randygpt.cli.output import emit
from randygpt.errors import CallerError
from randygpt.user.home import Home

app = typer.Typer(
    help="Manage the relays to publish to and fetch from.",
    epilog="Example: randygpt relays add wss://relay.example",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Relay, such as wss://relay.example.")]


@app.command("add", epilog="Example: randygpt relays add wss://relay.example")
def add(url: Url, as_json: Json = False, _quiet: Quiet = False) -> None:
    """Add a relay to your list."""
    from relay_client.url import normalize_url

    home, relay = Home.from_environment(), normalize_url(url)
    added = home.added_relays()
    if relay not in (*home.configured_relays, *added):
        home.write_relays([*added, relay])
    _changed(home, as_json=as_json)


@app.command("remove", epilog="Example: randygpt relays remove wss://relay.example")
def remove(url: Url, as_json: Json = False, _quiet: Quiet = False) -> None:
    """Remove a relay from your list."""
    from relay_client.url import normalize_url

    home = Home.from_environment()
    added = home.added_relays()
    relay = url if url in added else normalize_url(url)
    if relay not in added:
        if relay in home.configured_relays:
            raise CallerError(f"{relay} comes from a setting; remove it there (see `randygpt config show`)")
        raise CallerError(f"{relay} is not on your list")
    home.write_relays([other for other in added if other != relay])
    _changed(home, as_json=as_json)


def _changed(home: Home, *, as_json: bool) -> None:
    """Print the new list as JSON; print nothing for a person."""
    if as_json:
        emit(as_json, {"relays": home.relays()}, "")


@app.command("list", epilog="Example: randygpt relays list")
def list_(as_json: Json = False, _quiet: Quiet = False) -> None:
    """Print your list of relays."""
    relays = Home.from_environment().relays()
    if relays or as_json:
        emit(as_json, {"relays": relays}, "\n".join(relays))
