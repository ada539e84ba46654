"""`randygpt fetch`: fetch a release by id or name, verify it and install it."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import Json, MaxSize, NoServers, Quiet, Relays, Servers, parse_size, resolve_servers
from randygpt.cli.output import byte_progress, emit, format_size, print_stderr
from randygpt.cli.preview import print_plan
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.fetch import Fetched

EXAMPLE = "Example: randygpt fetch npub1…/shakespeare --relay wss://relay.example"


def fetch(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="npub…/name, alice/name, nevent, naddr, note or id; or the name of an installed one.",
            autocompletion=installed.complete_address,
        ),
    ],
    relay: Relays = None,
    server: Servers = None,
    no_servers: NoServers = False,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Skip the optimizer state: a third of the size, enough to serve.")
    ] = False,
    max_size: MaxSize = "1G",
    activate: Annotated[bool, typer.Option(help="Make it the current release, which `serve` uses.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched and from where; fetch nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch, verify and install a model.

    Every byte is verified against the author's signature; the release is installed completely or not at all.
    """
    from distribution.trust_list import TrustStore
    from randygpt.sharing import fetch_release, plan_fetch_release
    from relay_client.nip19 import encode_npub

    home, limit, warn = Home.from_environment(), parse_size(max_size), (lambda _text: None) if quiet else print_stderr
    if dry_run:
        planning = plan_fetch_release(
            home,
            reference,
            relays=relay,
            servers=resolve_servers(home, server, none=no_servers),
            follow_servers=not no_servers,
            max_size=limit,
            weights_only=weights_only,
            on_warning=warn,
        )
        plan, reports = asyncio.run(planning)
        print_plan(plan, reports, TrustStore(home.folder).read(), as_json=as_json)
        return
    with byte_progress("fetching", shown=not (as_json or quiet)) as on_progress:
        fetched = asyncio.run(
            fetch_release(
                home,
                reference,
                relays=relay,
                servers=resolve_servers(home, server, none=no_servers),
                follow_servers=not no_servers,
                max_size=limit,
                weights_only=weights_only,
                activate=activate,
                on_progress=on_progress,
                on_warning=warn,
            )
        )
    trusted = TrustStore(home.folder).read()
    release, author = fetched.release, encode_npub(fetched.release.author)
    for url in fetched.misbehaving if not quiet else ():
        print_stderr(f"{url} sent data that failed verification; others were preferred from then on")
    text = "\n".join(
        [
            f"{release.name} version {release.version}, signed by {trusted.display_name(release.author)}",
            f"release  {release.id.hex()}{' (weights only)' if release.partial else ''}",
            f"path     {release.file('checkpoint').local_path} ({format_size(release.file('checkpoint').size)})",
        ]
    )
    emit(as_json, _as_json(fetched, author), text)


def _as_json(fetched: "Fetched", author: str) -> dict[str, object]:
    release, chunks = fetched.release, fetched.chunks
    return {
        "release": release.id.hex(),
        "author": author,
        "name": release.name,
        "version": release.version,
        "files": [
            {
                "path": file.path,
                "role": file.role,
                "size": file.size,
                "sha256": file.sha256.hex(),
                "local": str(file.local_path),
            }
            for file in release.files
        ],
        "chunks": {"fetched": chunks.fetched, "reused": chunks.reused, "rejected": chunks.rejected},
        "relays": {
            url: {"given": chunks.relays.get(url, 0), "lied": url in fetched.misbehaving}
            for url in sorted({*chunks.relays, *fetched.misbehaving})
        },
        "servers": {
            origin: {"bytes": counts.bytes, "rejected": counts.rejected} for origin, counts in chunks.servers.items()
        },
        "partial": release.partial,
        "activated": fetched.activated,
    }
