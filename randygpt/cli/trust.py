"""`randygpt trust`: the list of authors you trust, their names, and the trust policy."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import Json, Quiet
from randygpt.cli.output import emit, print_stderr
from randygpt.cli.usage import Group
from randygpt.errors import CallerError
from randygpt.user.home import Home
from relay_client.errors import quote

if TYPE_CHECKING:
    from distribution.trust_list import TrustStore

app = typer.Typer(
    cls=Group,
    help="Manage the authors you trust.",
    epilog="Example: randygpt trust add npub1… alice",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_POLICIES = {
    "explicit": "any release that you name is fetched; `follow` accepts only the author that you name",
    "allowlist": "releases of authors who are not on the list are refused",
}


def _book() -> "TrustStore":
    from distribution.trust_list import TrustStore

    return TrustStore(Home.from_environment().folder)


def _complete_name(incomplete: str) -> list[str]:
    return installed.complete_from_store(incomplete, lambda _releases, trusted: trusted.names.values())


@app.command("add", epilog="Example: randygpt trust add npub1… alice")
def add(
    npub: Annotated[str, typer.Argument(metavar="NPUB", help="Public key of the author.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name to use for the author.")],
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Trust an author, or rename one."""
    from relay_client.nip19 import decode_pubkey, encode_npub

    author = decode_pubkey(npub)
    asyncio.run(_book().add(author, name))
    emit(as_json, {"npub": encode_npub(author), "name": name}, f"{name}  {encode_npub(author)}")


@app.command("remove", epilog="Example: randygpt trust remove alice")
def remove(
    who: Annotated[
        str, typer.Argument(metavar="NAME", help="Name on the list, or npub.", autocompletion=_complete_name)
    ],
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Stop trusting an author.

    Installed releases stay.
    """
    from relay_client.nip19 import encode_npub

    npub = encode_npub(asyncio.run(_book().remove(who)))
    emit(as_json, {"npub": npub}, f"removed {npub} from the list")


@app.command("forget", epilog="Example: randygpt trust forget alice@example.com")
def forget(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="NIP-05 address, such as alice@example.com.")],
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Forget the key of a NIP-05 address.

    The next `fetch` by that name accepts another key.
    """
    from relay_client.nip05 import Nip05Address

    known = str(Nip05Address.parse(address))
    asyncio.run(_book().forget(known))
    emit(as_json, {"address": known}, f"forgot the key of {known}")


@app.command("list", epilog="Example: randygpt trust list")
def list_(as_json: Json = False, quiet: Quiet = False) -> None:
    """Print the trusted authors, and the keys of NIP-05 addresses that you fetched from."""
    from relay_client.nip19 import encode_npub

    trusted = _book().read()
    authors = sorted((name, encode_npub(key)) for key, name in trusted.names.items())
    if not quiet and not as_json:
        print_stderr(f"policy {trusted.mode}: {_POLICIES[trusted.mode]}")
    addresses = {address: encode_npub(key) for address, key in sorted(trusted.addresses.items())}
    if authors or addresses or as_json:
        entries = [{"npub": npub, "name": name} for name, npub in authors]
        known = [f"{address}  {npub}  (NIP-05 address, not trusted by itself)" for address, npub in addresses.items()]
        text = "\n".join([f"{name}  {npub}" for name, npub in authors] + known)
        emit(as_json, {"policy": trusted.mode, "authors": entries, "addresses": addresses}, text)


@app.command("policy", epilog="Example: randygpt trust policy allowlist")
def policy(
    mode: Annotated[
        str | None,
        typer.Argument(
            metavar="explicit|allowlist",
            help="New policy; without it, print the current one.",
            autocompletion=lambda: list(_POLICIES),
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print or set the trust policy.

    explicit: fetch any release that you name. allowlist: fetch only releases of authors on the list.
    """
    from distribution.trust import MODES

    book = _book()
    if mode is not None:
        chosen = next((each for each in MODES if each == mode), None)
        if chosen is None:
            raise CallerError(f"no such policy: {quote(mode)}; use explicit or allowlist")
        asyncio.run(book.set_mode(chosen))
    now = book.read().mode
    if not quiet and not as_json:
        print_stderr(_POLICIES[now])
    emit(as_json, {"policy": now}, now)
