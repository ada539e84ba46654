"""`randygpt verify`: check installed files against their signed hashes, and relays for a release's events."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import Json, NoServers, Quiet, Relays, Servers, resolve_servers
from randygpt.cli.models import MODEL_HELP, find_model
from randygpt.cli.output import emit, print_stderr
from randygpt.user import signing_key
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.installed import InstalledRelease
    from distribution.store import Store
    from distribution.trust_list import TrustList

EXAMPLE = "Example: randygpt verify shakespeare --remote"


def verify(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help=f"{MODEL_HELP} Default: all releases.",
            autocompletion=installed.complete_or_file,
        ),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Ask relays and servers how much of the release they have.")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Fetch what the release was merged from, merge again, and compare.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --merge: fetch without asking.")] = False,
    relay: Relays = None,
    server: Servers = None,
    no_servers: NoServers = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check installed releases against their signed hashes.

    With --remote, check which relays and Blossom servers still have a release. With --merge, check that it is the merge
    that its author claims.
    """
    from distribution.errors import CallerError, StoreError

    store, trusted = installed.open_store(Home.from_environment())
    releases = store.releases()
    if which:
        model = find_model(which)
        if not model.release:
            if merge:
                raise CallerError(f"--merge checks a release, and {model.path} is a file: publish or fetch it first")
            _verify_file(model.path, as_json=as_json)
            return
        releases = [model.release]
    if merge:
        if not which or remote:
            raise CallerError("--merge checks a single release, and not with --remote: name a RELEASE")
        from randygpt.cli.verify_merge import verify_merge

        verify_merge(Home.from_environment(), releases[0], relay, yes=yes, as_json=as_json, quiet=quiet)
        return
    if remote:
        if not which:
            raise CallerError("--remote checks a single release: name a RELEASE")
        servers = resolve_servers(Home.from_environment(), server, none=no_servers)
        asked = None if no_servers else servers
        raise typer.Exit(asyncio.run(_ask(store, trusted, releases[0], relay, asked, as_json=as_json)))
    damaged = _check(store, trusted, releases, as_json=as_json, quiet=quiet)
    if damaged:
        raise StoreError(f"damaged: {', '.join(damaged)}; fetch the release again")


def _check(
    store: "Store", trusted: "TrustList", releases: "list[InstalledRelease]", *, as_json: bool, quiet: bool
) -> list[str]:
    """Hash every file of the releases and print the results; return the damaged files."""
    entries, lines, damaged = [], [], []
    for release in releases:
        bad = [str(file.local_path) for file in store.damaged_files(release)]
        damaged += bad
        entries.append(installed.release_json(release, trusted) | {"intact": not bad, "damaged": bad})
        lines.append(f"{'damaged' if bad else 'intact '}  {installed.release_title(release, trusted)}")
    if as_json:
        emit(as_json, {"releases": entries}, "")
    elif lines:
        emit(as_json, {}, "\n".join(lines))
    elif not quiet:
        print_stderr("no releases installed")
    return damaged


def _verify_file(path: Path, *, as_json: bool) -> None:
    """Check the format and the numbers of a checkpoint, and print whether an installed release has the same bytes."""
    import hashlib

    from randygpt.checkpoint.rgpt import read_checkpoint
    from randygpt.checkpoint.sidecar import inspect_checkpoint

    found = inspect_checkpoint(path)
    read_checkpoint(found.path, found.config)
    with found.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    store, trusted = installed.open_store(Home.from_environment())
    same = [release for release in store.releases() if digest in {file.sha256 for file in release.files}]
    signed = (
        f"the checkpoint of {installed.release_title(same[0], trusted)}" if same else "not part of an installed release"
    )
    result = {"file": str(found.path), "sha256": digest.hex(), "intact": True}
    releases = [installed.release_json(release, trusted) for release in same]
    emit(as_json, result | {"releases": releases}, f"intact   {found.path}, {signed}")


async def _ask(
    store: "Store",
    trusted: "TrustList",
    release: "InstalledRelease",
    relay: list[str] | None,
    servers: list[str] | None,
    *,
    as_json: bool,
) -> int:
    """Print how much of a release each relay and server has; return exit code 4 if it cannot be fetched from them.

    `servers`: the user's; None: no server is asked.
    """
    from distribution.reseed import Reseeder
    from distribution.server_copies import check_servers
    from relay_client.pool import Pool

    home = Home.from_environment()
    urls = home.resolve_relays(relay)
    async with Pool(urls, signer=signing_key.signer(home), wait_for_all=False) as pool:
        reseeder = Reseeder(pool, store, release, now=int(time.time()))
        found = await reseeder.availability()
        reasons = {url: report.reason for url, report in pool.reports.items()}
    relays = {url: {"held": found.held.get(url, 0), "reason": reasons[url]} for url in urls}
    lines = [f"{found.held.get(url, 0):>7,} of {found.total:,}  {url}  {reasons[url]}".rstrip() for url in urls]
    lines.append(
        f"{found.nowhere:,} events are on none of these relays"
        if found.nowhere
        else "every event is on at least one relay"
    )
    result = installed.release_json(release, trusted) | {
        "events": found.total,
        "nowhere": found.nowhere,
        "relays": relays,
    }
    has_all = not found.nowhere
    if servers is not None:
        stored = await check_servers(reseeder.manifest, chosen=servers, named=reseeder.release.servers)
        lines += [
            f"{each.held:>7,} of {each.total:,} files  {origin}  {each.reason}".rstrip()
            for origin, each in stored.items()
        ]
        result["servers"] = {origin: {"held": each.held, "reason": each.reason} for origin, each in stored.items()}
        has_all = has_all or (found.announced and any(each.is_complete for each in stored.values()))
    emit(as_json, result, "\n".join([installed.release_title(release, trusted), *lines]))
    return 0 if has_all else 4
