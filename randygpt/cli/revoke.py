"""`randygpt revoke`: take back a release of yours."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.keys import KeyFile, PasswordFile, signing_key
from randygpt.cli.output import Json, Quiet, Relays, emit, print_stderr
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.revoke import Revoked
    from relay_client.keys import AddressReference, EventReference, SecretKey

EXAMPLE = 'Example: randygpt revoke nevent1… --reason "trained on the wrong text"'


def revoke(
    reference: Annotated[
        str, typer.Argument(metavar="RELEASE", help="An event id in hex, note or nevent; npub…/name: its latest.")
    ],
    reason: Annotated[str, typer.Option(help="Why, for whoever looks.")] = "",
    relay: Relays = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take back a release of yours. Its name leads to the last good version then, and followers go back to that.

    It cannot be undone, and it does not reach copies that somebody keeps: relays and readers that know of it honour it.
    """
    from relay_client.keys import parse_reference

    home = Home.from_environment()
    parsed = parse_reference(reference)
    urls, key = home.resolve_relays(relay, hints=parsed.relays), signing_key(home, key_file, password_file)
    revoked = asyncio.run(_revoke(home, urls, key, parsed, reason))
    release, latest = revoked.release, revoked.latest
    if not quiet:
        for report in revoked.relays.values():
            if report.reason:
                print_stderr(f"left out: {report.reason}")
        for url in sorted(revoked.hidden):
            print_stderr(
                f"{url} took the revocation and does not give it out: who has this version from there may keep it"
            )
    result = {
        "release": release.id.hex(),
        "name": release.name,
        "version": release.version,
        "latest": {"release": latest.id.hex(), "version": latest.version} if latest else None,
        "relays": {
            url: {"reason": report.reason, "shows_it": not report.reason and url not in revoked.hidden}
            for url, report in revoked.relays.items()
        },
    }
    left = f"latest    version {latest.version}, {latest.id.hex()}" if latest else "no good version of it is left"
    emit(as_json, result, f"taken back: {release.name} version {release.version}\n{left}")


async def _revoke(
    home: Home, urls: list[str], key: "SecretKey", reference: "EventReference | AddressReference", reason: str
) -> "Revoked":
    from distribution.revoke import Revoker
    from distribution.store import Store
    from relay_client.pool import Pool

    async with Pool(urls, signer=key) as pool:
        revoker = Revoker(pool=pool, versions=Store(home.folder).seen_versions, key=key, now=lambda: int(time.time()))
        return await revoker.revoke(reference, reason=reason)
