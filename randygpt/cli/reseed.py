"""`randygpt reseed`: copy an installed release to more relays, or to Blossom servers."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import Json, Quiet, Relays, validator
from randygpt.cli.keys import KeyFile, PasswordFile, signing_key
from randygpt.cli.output import byte_progress, emit, print_stderr
from randygpt.user import signing_key as key_sources
from randygpt.user.home import Home
from relay_client.blossom.address import normalize_server

if TYPE_CHECKING:
    from distribution.download import OnProgress
    from distribution.installed import InstalledRelease
    from distribution.reseed import Reseeded
    from distribution.store import Store

EXAMPLE = "Example: randygpt reseed shakespeare --relay wss://relay.example"


def reseed(
    which: installed.Which,
    relay: Relays = None,
    server: Annotated[
        list[str] | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="Upload the files to this Blossom server instead, under your own key; repeat for more.",
            callback=validator(normalize_server),
        ),
    ] = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy an installed release to relays or Blossom servers that lack it.

    Events stay signed by the author, so relays need no key; servers know who uploads. Run it again to send only what is
    still missing.
    """
    if server:
        origins = list(dict.fromkeys(map(normalize_server, server)))
        _reseed_servers(which, origins, key_file, password_file, as_json=as_json, quiet=quiet)
        return
    store, trusted, release = installed.find_release(which)
    home = Home.from_environment()
    with byte_progress("sending", shown=not (as_json or quiet)) as on_progress:
        done = asyncio.run(_reseed(home, store, release, relay, on_progress))
    relays = {
        url: {"accepted": report.accepted, "duplicate": report.duplicate, "reason": report.reason}
        for url, report in done.relays.items()
    }
    result = installed.release_json(release, trusted) | {
        "events": done.total,
        "copies": done.copies,
        "missing": done.missing,
        "head": done.head,
        "relays": relays,
    }
    if not quiet:
        _print_notes(done)
    lines = [f"{each['accepted']:>7,} sent, {each['duplicate']:,} already there  {url}" for url, each in relays.items()]
    emit(as_json, result, "\n".join([installed.release_title(release, trusted), *lines]))
    if done.missing:
        raise typer.Exit(4)


def _reseed_servers(
    which: str, origins: list[str], key_file: Path | None, password_file: Path | None, *, as_json: bool, quiet: bool
) -> None:
    """Upload a release to servers, and print the result; exit code 4 if none has all that is installed."""
    from distribution.local_release import check_not_revoked, read_manifest, read_release
    from distribution.server_copies import upload_installed

    store, trusted, release = installed.find_release(which)
    check_not_revoked(store, release)
    key = signing_key(Home.from_environment(), key_file, password_file)
    signed = read_release(release, int(time.time()))
    manifest = read_manifest(store, signed)
    with byte_progress("uploading", shown=not (as_json or quiet)) as on_progress:
        done = asyncio.run(
            upload_installed(
                release,
                manifest,
                origins,
                signer=key,
                now=lambda: int(time.time()),
                named=signed.servers,
                on_progress=on_progress,
            )
        )
    servers = {
        origin: {
            "uploaded": report.uploaded,
            "mirrored": report.mirrored,
            "present": report.present,
            "reason": report.reason,
        }
        for origin, report in done.servers.items()
    }
    if done.missing and not quiet:
        print_stderr(f"{done.missing:,} files cannot be uploaded: their data is not in the store (weights only?)")
    lines = [
        report["reason"]
        or f"{report['uploaded']:>7,} uploaded, {report['mirrored']:,} copied from another server, "
        f"{report['present']:,} already there  {origin}"
        for origin, report in servers.items()
    ]
    result = installed.release_json(release, trusted) | {"missing": done.missing, "servers": servers}
    emit(as_json, result, "\n".join([installed.release_title(release, trusted), *map(str, lines)]))
    if done.missing or all(report.reason for report in done.servers.values()):
        raise typer.Exit(4)


async def _reseed(
    home: Home, store: "Store", release: "InstalledRelease", relay: list[str] | None, on_progress: "OnProgress"
) -> "Reseeded":
    from distribution.reseed import Reseeder
    from relay_client.pool import Pool

    async with Pool(home.resolve_relays(relay), signer=key_sources.signer(home)) as pool:
        return await Reseeder(pool, store, release, now=int(time.time()), on_progress=on_progress).reseed()


def _print_notes(done: "Reseeded") -> None:
    for report in done.relays.values():
        if report.reason:
            print_stderr(f"skipped relay: {report.reason}")
    if done.copies:
        print_stderr(f"{done.copies:,} chunks sent as copies: the author's signatures on them are not in the store")
    if done.missing:
        print_stderr(
            f"{done.missing:,} of {done.total:,} events cannot be sent: their data is not in the store (weights only?)"
        )
    if not done.head:
        print_stderr(
            "the relays cannot find it by name: it was fetched by id, so the author's head event is not in the store"
        )
