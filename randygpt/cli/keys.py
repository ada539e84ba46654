"""`randygpt keys`: make and show the key you publish with."""

import typer

from randygpt.cli.output import Json, Quiet, emit
from randygpt.settings import Home
from relay_client.keys import encode_npub

app = typer.Typer(
    help="The key you publish with.",
    epilog="Example: randygpt keys new",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("new", epilog="Example: randygpt keys new")
def new(as_json: Json = False, _quiet: Quiet = False) -> None:
    """Make a key, keep it where only you can read it, and print its public half (npub)."""
    home = Home.from_environment()
    _show(home, home.new_key().pubkey, as_json=as_json)


@app.command("show", epilog="Example: randygpt keys show")
def show(as_json: Json = False, _quiet: Quiet = False) -> None:
    """Print the public half (npub) of your key."""
    home = Home.from_environment()
    _show(home, home.read_key().pubkey, as_json=as_json)


def _show(home: Home, pubkey: bytes, *, as_json: bool) -> None:
    npub = encode_npub(pubkey)
    emit(as_json, {"npub": npub, "pubkey": pubkey.hex(), "file": str(home.key_path)}, npub)
