"""`randygpt fetch`: fetch a release by id or name, verify it and install it."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import (
    Json,
    MaxSize,
    NoServers,
    Quiet,
    Relays,
    Servers,
    is_flag_given,
    parse_size,
    resolve_servers,
)
from randygpt.cli.output import byte_progress, emit, format_size, print_stderr
from randygpt.cli.preview import print_plan
from randygpt.cli.search import find_author_alone, list_models_of
from randygpt.cli.usage import UsageError
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.event_file import EventFile
    from distribution.fetch import Fetched

EXAMPLE = "Example: randygpt fetch npub1…/shakespeare --relay wss://relay.example"


def fetch(
    context: typer.Context,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="npub…/name, alice/name, nevent, naddr, note or id; or the name of an installed one. "
            "Not needed with --from.",
            autocompletion=installed.complete_address,
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Read events from this file (JSONL; - for standard input), and ask no relay.",
        ),
    ] = None,
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

    Every byte is verified against the author's signature; the release is installed completely or not at all. With an
    npub, alice or alice@example.com alone, list that author's models and fetch nothing.
    """
    from distribution.trust_list import TrustStore
    from randygpt.fetching import FetchOptions, fetch_release, plan_fetch_release
    from relay_client.nip19 import encode_npub

    home, limit, warn = Home.from_environment(), parse_size(max_size), (lambda _text: None) if quiet else print_stderr
    if source is None and reference is None:
        raise UsageError("Missing argument 'MODEL'.", context)
    if source is not None and any(is_flag_given(context, flag) for flag in ("relay", "server")):
        raise CallerError("--from asks no relay and no server: leave out --relay and --server")
    if reference is not None and source is None and (listed := find_author_alone(reference, quiet=quiet)):
        list_models_of(home, listed, relay, as_json=as_json, quiet=quiet)
        return
    with _open_events(home, source, limit) as events:
        options = FetchOptions(
            relays=relay,
            events=events,
            servers=[] if source else resolve_servers(home, server, none=no_servers),
            follow_servers=not (no_servers or source),
            max_size=limit,
            weights_only=weights_only,
            on_warning=warn,
        )
        if dry_run:
            plan, reports = asyncio.run(plan_fetch_release(home, reference, options))
            print_plan(plan, reports, TrustStore(home.folder).read(), as_json=as_json)
            return
        with byte_progress("fetching", shown=not (as_json or quiet)) as on_progress:
            fetched = asyncio.run(fetch_release(home, reference, options, activate=activate, on_progress=on_progress))
    trusted = TrustStore(home.folder).read()
    release, author = fetched.release, encode_npub(fetched.release.author)
    for url in fetched.misbehaving if not quiet else ():
        others = "" if source else "; others were preferred from then on"
        print_stderr(f"{url} {'has' if source else 'sent'} data that failed verification{others}")
    following = 'generate "Once upon a time"' if fetched.activated else f"use {release.id.hex()[:8]}"
    lines = [
        f"{release.title}, signed by {trusted.display_name(release.author)}",
        f"release  {release.id.hex()}{' (weights only)' if release.partial else ''}",
        f"path     {release.file('checkpoint').local_path} ({format_size(release.file('checkpoint').size)})",
        *([] if quiet else [f"next     randygpt {following}"]),
    ]
    emit(as_json, _as_json(fetched, author), "\n".join(lines))


@contextlib.contextmanager
def _open_events(home: Home, source: Path | None, max_size: int) -> "Iterator[EventFile | None]":
    """Open the file of events, if there is one; raises CallerError, OSError."""
    if source is None:
        yield None
        return
    from distribution.event_file import open_event_file
    from relay_client import durable

    folder = durable.make_directory(home.folder)
    with open_event_file(source, folder=folder, max_size=max_size) as events:
        yield events


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
