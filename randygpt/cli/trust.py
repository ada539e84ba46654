"""`randygpt trust`: whose models you take, and what you call their authors."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.output import Json, Quiet, emit, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.trust_list import TrustStore

app = typer.Typer(
    help="Whose models you take, and by which names.",
    epilog="Example: randygpt trust add npub1… alice",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_POLICIES = {
    "explicit": "what you name is fetched, whoever made it; `follow` takes only the author you name",
    "allowlist": "authors who are not on the list are refused before anything of theirs is fetched",
}


def _book() -> "TrustStore":
    from distribution.trust_list import TrustStore

    return TrustStore(Home.from_environment().folder)


def _complete_name(incomplete: str) -> list[str]:
    return installed.complete_from_store(incomplete, lambda _releases, trusted: trusted.names.values())


@app.command("add", epilog="Example: randygpt trust add npub1… alice")
def add(
    npub: Annotated[str, typer.Argument(metavar="NPUB", help="An author's public key.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call them.")],
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Put an author on the list, or rename one."""
    from relay_client.keys import decode_pubkey, encode_npub

    author = decode_pubkey(npub)
    asyncio.run(_book().add(author, name))
    emit(as_json, {"npub": encode_npub(author), "name": name}, f"{name}  {encode_npub(author)}")


@app.command("remove", epilog="Example: randygpt trust remove alice")
def remove(
    who: Annotated[
        str, typer.Argument(metavar="NAME", help="A name on the list, or an npub.", autocompletion=_complete_name)
    ],
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Take an author off the list. What is installed stays."""
    from relay_client.keys import encode_npub

    npub = encode_npub(asyncio.run(_book().remove(who)))
    emit(as_json, {"npub": npub}, f"removed {npub}")


@app.command("list", epilog="Example: randygpt trust list")
def list_(as_json: Json = False, quiet: Quiet = False) -> None:
    """Print the list."""
    from relay_client.keys import encode_npub

    trusted = _book().read()
    authors = sorted((name, encode_npub(key)) for key, name in trusted.names.items())
    if not quiet and not as_json:
        print_stderr(f"policy {trusted.mode}: {_POLICIES[trusted.mode]}")
    if authors or as_json:
        entries = [{"npub": npub, "name": name} for name, npub in authors]
        text = "\n".join(f"{name}  {npub}" for name, npub in authors)
        emit(as_json, {"policy": trusted.mode, "authors": entries}, text)


@app.command("policy", epilog="Example: randygpt trust policy allowlist")
def policy(
    mode: Annotated[
        str | None,
        typer.Argument(
            metavar="[explicit|allowlist]", help="Nothing: print it.", autocompletion=lambda: list(_POLICIES)
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose whose models are fetched at all: `explicit`, those you name, or `allowlist`, those on the list."""
    from distribution.trust import MODES

    book = _book()
    if mode is not None:
        chosen = next((each for each in MODES if each == mode), None)
        if chosen is None:
            raise CallerError(f"no such policy: {mode!r} (explicit or allowlist)")
        asyncio.run(book.set_mode(chosen))
    now = book.read().mode
    if not quiet and not as_json:
        print_stderr(_POLICIES[now])
    emit(as_json, {"policy": now}, now)
