"""`randygpt reseed`: copy an installed release to more relays."""

import asyncio
import time
from typing import TYPE_CHECKING

import typer

from randygpt.cli import installed
from randygpt.cli.flags import Json, Quiet, Relays
from randygpt.cli.output import byte_progress, emit, print_stderr
from randygpt.user import signing_key
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.download import OnProgress
    from distribution.installed import InstalledRelease
    from distribution.reseed import Reseeded
    from distribution.store import Store

EXAMPLE = "Example: randygpt reseed shakespeare --relay wss://relay.example"


def reseed(which: installed.Which, relay: Relays = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Copy an installed release to relays that lack it.

    The events stay signed by the author, so no key is needed. Run it again to send only what is still missing.
    """
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


async def _reseed(
    home: Home, store: "Store", release: "InstalledRelease", relay: list[str] | None, on_progress: "OnProgress"
) -> "Reseeded":
    from distribution.reseed import Reseeder
    from relay_client.pool import Pool

    async with Pool(home.resolve_relays(relay), signer=signing_key.signer(home)) as pool:
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
