"""`randygpt keys profile`: the profile that your key publishes for all nostr programs (kind 0)."""

import asyncio
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from randygpt.cli.flags import Json, Quiet, Relays
from randygpt.cli.keys import KeyFile, PasswordFile, find_pubkey, signing_key
from randygpt.cli.output import emit, is_confirmed, print_stderr
from randygpt.errors import CallerError
from randygpt.terminal import escape_line
from randygpt.user.home import Home

if TYPE_CHECKING:
    from relay_client.event import Event, EventDraft

EXAMPLE = 'Example: randygpt keys profile --name alice --about "Small models of old plays"'

_MAX_VALUE = 10_000  # characters
_EMPTY_REMOVES = "an empty text removes it"


def profile(
    name: Annotated[str | None, typer.Option(metavar="NAME", help=f"Name to show; {_EMPTY_REMOVES}.")] = None,
    about: Annotated[str | None, typer.Option(metavar="TEXT", help=f"About you; {_EMPTY_REMOVES}.")] = None,
    nip05: Annotated[
        str | None,
        typer.Option("--nip05", metavar="ADDRESS", help=f"NIP-05 address: alice@example.com; {_EMPTY_REMOVES}."),
    ] = None,
    relay: Relays = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Publish a first profile without asking, if your relays have none.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the profile of your key, or change it.

    Changes are made to the newest profile that your relays have, and everything else in it stays. If you use nostr
    elsewhere, name the relays you use there with --relay.
    """
    home = Home.from_environment()
    urls, changes = home.resolve_relays(relay), _changes(name=name, about=about, nip05=nip05)
    if not changes:
        _show(urls, find_pubkey(home, key_file, password_file), as_json=as_json)
        return
    from randygpt.own_lists import newest_profile, replace_event
    from relay_client.keys import local_key
    from relay_client.profile import PROFILE_KIND, merge_profile, read_profile

    def change(latest: "Event | None") -> "EventDraft | None":
        return merge_profile(latest, changes, now=int(time.time()))

    key = signing_key(home, key_file, password_file)
    if not yes and not asyncio.run(newest_profile(urls, key.pubkey, signer=local_key(key))):
        _confirm_first()
    replaced = asyncio.run(replace_event(urls, key, PROFILE_KIND, change))
    for report in replaced.relays.values() if not quiet else ():
        if report.reason:
            print_stderr(f"skipped relay: {report.reason}")
    fields = read_profile(replaced.event) or {}
    relays = {url: {"has_profile": each.in_use, "reason": each.reason} for url, each in replaced.relays.items()}
    emit(as_json, {"profile": fields, "event": replaced.event.id.hex(), "relays": relays}, _text(fields))


def _changes(**given: str | None) -> dict[str, str]:
    """Return the given fields, checked; raises CallerError."""
    from relay_client.nip05 import ROOT_NAME, Nip05Address

    changes = {field: value.strip() for field, value in given.items() if value is not None}
    for field, value in changes.items():
        if len(value) > _MAX_VALUE:
            raise CallerError(f"--{field} has {len(value):,} characters, the maximum is {_MAX_VALUE:,}")
    if changes.get("nip05"):
        address = Nip05Address.parse(changes["nip05"])
        changes["nip05"] = f"{ROOT_NAME}@{address.domain}" if address.name == ROOT_NAME else str(address)
    return changes


def _confirm_first() -> None:
    """Ask whether to publish a profile although no relay has one; raises CallerError if not."""
    question = "Your relays have no profile of this key; a new one hides what other relays may have. Publish it?"
    if not sys.stdin.isatty() or not is_confirmed(question):
        raise CallerError(
            "your relays have no profile of this key: name the relays that have it with --relay, or pass --yes to "
            "publish a first one"
        )


def _show(urls: list[str], pubkey: bytes, *, as_json: bool) -> None:
    from randygpt.own_lists import newest_profile
    from relay_client.profile import read_profile

    latest = asyncio.run(newest_profile(urls, pubkey))
    fields = read_profile(latest) if latest else None
    if not as_json and not fields:
        print_stderr("your relays have no profile of this key; publish one with randygpt keys profile --name NAME")
        return
    emit(as_json, {"profile": fields, "event": latest.id.hex() if latest else None}, _text(fields or {}))


def _text(fields: Mapping[str, Any]) -> str:
    from relay_client.errors import quote

    return "\n".join(
        escape_line(f"{field:<12}  {value if isinstance(value, str) else quote(value)}"[:_MAX_VALUE])
        for field, value in fields.items()
    )
