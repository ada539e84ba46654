"""`randygpt revoke`: revoke one of your releases."""

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import Json, Quiet, Relays, Servers, resolve_servers
from randygpt.cli.keys import KeyFile, PasswordFile, signing_key
from randygpt.cli.output import emit, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.blob_deletion import Deletion
    from distribution.resolve import Reference
    from distribution.revoke import Revoked
    from relay_client.event import EventSigner

EXAMPLE = 'Example: randygpt revoke nevent1… --reason "trained on the wrong text"'


def revoke(
    reference: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name for its latest version, name@version, nevent, note or id.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason, shown to everyone.")] = "",
    relay: Relays = None,
    blobs: Annotated[
        bool,
        typer.Option(
            "--delete-blobs", help="Ask Blossom servers to delete the files that no other release of yours has."
        ),
    ] = False,
    server: Servers = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Revoke one of your releases.

    The name then points to the latest version that is not revoked, and followers go back to it. A revocation cannot be
    undone, and it cannot delete copies that others keep.
    """
    from distribution.resolve import resolve_reference

    home = Home.from_environment()
    key, (store, trusted) = signing_key(home, key_file, password_file), installed.open_store(home)
    parsed = resolve_reference(store, trusted, reference, author=key.pubkey)
    urls = home.resolve_relays(relay, hints=parsed.relays)
    if server and not blobs:
        raise CallerError("--server is for --delete-blobs: name both")
    servers = resolve_servers(home, server, none=False) if blobs else None
    revoked, deletions = asyncio.run(_revoke(home, urls, key, parsed, reason, servers))
    release, latest = revoked.release, revoked.latest
    if not quiet:
        for report in revoked.relays.values():
            if report.reason:
                print_stderr(f"skipped relay: {report.reason}")
        for url in sorted(revoked.unconfirmed):
            print_stderr(
                f"{url} accepted the revocation but does not serve it: users of that relay alone will not learn of it"
            )
    result: dict[str, object] = {
        "release": release.id.hex(),
        "name": release.name,
        "version": release.version,
        "already_revoked": revoked.already,
        "latest": {"release": latest.id.hex(), "version": latest.version} if latest else None,
        "relays": {
            url: {"reason": report.reason, "shows_it": report.in_use and url not in revoked.unconfirmed}
            for url, report in revoked.relays.items()
        },
    }
    if deletions is not None:
        result["servers"] = {origin: asdict(each) for origin, each in deletions.items()}
    left = (
        f"latest    version {latest.version}, {latest.id.hex()}"
        if latest
        else "latest    none: every version is revoked"
    )
    done = "already revoked: " if revoked.already else "revoked   "
    text = f"{done}{release.name} version {release.version}\n{left}" if release.name else f"{done}{release.id.hex()}"
    lines = [
        f"{origin}  {each.deleted:,} files deleted, {each.absent:,} not there  {each.reason}".rstrip()
        for origin, each in (deletions or {}).items()
    ]
    emit(as_json, result, "\n".join([text, *lines]))


async def _revoke(
    home: Home,
    urls: list[str],
    key: "EventSigner",
    reference: "Reference",
    reason: str,
    servers: list[str] | None,
) -> "tuple[Revoked, dict[str, Deletion] | None]":
    """Revoke a release, and delete its blobs from the user's and its own servers; `servers` None: delete nothing."""
    from distribution.blob_deletion import delete_blobs, find_own_blobs
    from distribution.published import find_version
    from distribution.resolve import VersionReference
    from distribution.revoke import Revoker
    from distribution.store import Store
    from relay_client.keys import local_key
    from relay_client.nip19 import EventReference
    from relay_client.nip46.remote_signer import kept_open
    from relay_client.pool import Pool

    async with kept_open(key), Pool(urls, signer=local_key(key)) as pool:
        if isinstance(reference, VersionReference):
            found = await find_version(pool, reference.author, reference.name, reference.version, now=int(time.time()))
            reference = EventReference(id=found.id)
        revoker = Revoker(pool=pool, versions=Store(home.folder).seen_versions, key=key, now=lambda: int(time.time()))
        own = None if servers is None else await find_own_blobs(pool, key.pubkey, now=int(time.time()))
        revoked = await revoker.revoke(reference, reason=reason)
    if own is None or servers is None:
        return revoked, None
    release = own.releases.get(revoked.release.id)
    origins = list(dict.fromkeys([*servers, *(release.servers if release else ())]))
    hashes = own.only_of(revoked.release.id)
    if not hashes:
        return revoked, {}
    async with kept_open(key):  # one question after the other
        return revoked, await delete_blobs(origins, hashes, signer=key, now=lambda: int(time.time()))
