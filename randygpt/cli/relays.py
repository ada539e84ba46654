"""`randygpt relays`: the list of relays to use."""

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.flags import Json, Quiet, Relays
from randygpt.cli.keys import KeyFile, PasswordFile, signing_key
from randygpt.cli.output import emit, format_size, is_confirmed
from randygpt.cli.usage import Group
from randygpt.errors import CallerError, TransportError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from relay_client.event import Signer
    from relay_client.relay_check import RelayCheck

_CHUNK_EVENT = 61_900  # bytes, about

app = typer.Typer(
    cls=Group,
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


@app.command("publish", epilog="Example: randygpt relays publish")
def publish(
    relay: Relays = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add your relays to the relay list under your key (NIP-65, kind 10002).

    They are added as relays that you write to; what the list on your relays names stays on it. Others then find your
    models by your name alone. Only public wss relays are published. Every program of nostr uses this list.
    """
    from randygpt.cli.published_list import show_published
    from randygpt.own_lists import publish_relays
    from relay_client.hints import is_usable_hint

    home = Home.from_environment()
    listed = home.relays()
    urls = [url for url in listed if is_usable_hint(url)]
    if not urls:
        raise CallerError(f"none of your relays is a public wss relay: {', '.join(listed) or 'the list is empty'}")
    asked, key = home.resolve_relays(relay), signing_key(home, key_file, password_file)
    published = asyncio.run(publish_relays(asked, key, urls, now=int(time.time())))
    not_public = [url for url in listed if url not in urls]
    show_published(published, "write", not_public=not_public, noun="public wss relay", as_json=as_json, quiet=quiet)


@app.command("check", epilog="Example: randygpt relays check wss://relay.example --send")
def check(
    url: Url,
    send: Annotated[
        bool, typer.Option("--send", help="Send one event of a chunk's size, of a kind that relays do not store.")
    ] = False,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Check whether a relay takes models.

    Reads what the relay says of itself. With --send, or after a question, sends one ephemeral event, signed with your
    key if you have one. Ends with exit code 4 if the relay cannot be reached or refuses.
    """
    from distribution.chunking import CHUNK_SIZE
    from relay_client.relay_check import check_relay
    from relay_client.url import normalize_url

    relay = normalize_url(url)
    if not send and not as_json and sys.stdin.isatty():
        send = is_confirmed(f"Send {relay} one event of {format_size(_CHUNK_EVENT)}, which it does not store?")
    signer, whose = _test_signer()
    now = int(time.time())
    checked = asyncio.run(check_relay(relay, size=CHUNK_SIZE, signer=signer, now=now, send=send))
    info, refusal = checked.info, checked.refusal
    result = {
        "relay": relay,
        "name": info.name,
        "software": info.software,
        "requires": list(info.requirements),
        "max_message_length": info.max_message_length,
        "chunk_fits": checked.fits,
        "accepted": None if refusal is None else not refusal,
        "reason": refusal or "",
    }
    emit(as_json, result, "\n".join(_check_lines(relay, checked, whose)))
    if refusal or checked.fits is False:
        raise typer.Exit(4)


def _test_signer() -> tuple["Signer", str]:
    """Return the user's key if it can be used without a password, else a new one; and whose it is, in words."""
    from randygpt.user import signing_key
    from relay_client.keys import SecretKey

    own = signing_key.signer(Home.from_environment())
    if own:
        with contextlib.suppress(TransportError):
            _ = own.pubkey
            return own, "your key"
    return SecretKey.generate(), "a new key"


def _check_lines(relay: str, checked: "RelayCheck", whose: str) -> list[str]:
    info = checked.info
    who = " ".join(filter(None, (info.name, f"({info.software})" if info.software else "")))
    size = format_size(checked.frame_size)
    lines = [
        f"{relay}: connected",
        f"  says      {who or ('no name' if info.is_described else 'nothing (no NIP-11 document)')}",
    ]
    if info.requirements:
        lines.append(f"  demands   {', '.join(info.requirements)}")
    if checked.fits is None:
        lines.append(f"  messages  no limit named; a chunk needs {size}")
    else:
        limit = format_size(info.max_message_length or 0)
        lines.append(f"  messages  up to {limit}; a chunk {'fits' if checked.fits else 'does NOT fit'} ({size})")
    if checked.refusal is None:
        lines.append("  test      nothing was sent; --send sends one event that relays do not store")
    else:
        lines.append(f"  test      {size} signed with {whose}: {checked.refusal or 'accepted'}")
    if checked.refusal == "":
        lines.append("Its owner may still limit how many events it keeps, of which kinds, and for how long: ask first.")
    return lines
