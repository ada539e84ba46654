"""`randygpt gc`: remove unused releases from the store, and set its quota."""

import asyncio
from typing import Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import Json, Quiet, parse_size, validator
from randygpt.cli.output import emit, format_size
from randygpt.user.home import Home

EXAMPLE = "Example: randygpt gc --keep 3 --quota 20G"


def _bytes(text: str) -> int | None:
    return None if text == "none" else parse_size(text)


def gc(
    keep: Annotated[int, typer.Option(min=0, metavar="N", help="Also keep the N releases installed last.")] = 0,
    quota: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Set the maximum size of the store, such as 20G; `none` for no limit.",
            callback=validator(_bytes),
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Remove unused releases from the store.

    Keeps the current, the previous and all pinned releases, and also removes what old interrupted fetches left. Safe to
    run during a fetch. If a fetch would exceed the quota, it removes unused releases itself before it refuses.
    """
    from distribution.gc import GarbageCollector, Quota, disk_usage

    store, trusted = installed.open_store(Home.from_environment())
    limits = Quota(store.home)
    if quota is not None and not dry_run:
        asyncio.run(limits.set(_bytes(quota)))
    removed = GarbageCollector(store).collect(keep=keep, dry_run=dry_run) if store.folder.is_dir() else []
    freed, left, limit = sum(item.bytes for item in removed), disk_usage(store), limits.read()
    releases = [item.release for item in removed if item.release]
    result = {
        "releases": [installed.release_json(release, trusted) for release in releases],
        "files": [str(item.path) for item in removed if not item.release],
        "freed": freed,
        "used": left,
        "quota": limit,
        "dry_run": dry_run,
    }
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb} {installed.release_title(release, trusted)}" for release in releases]
    of_quota = f" of {format_size(limit)}" if limit else ""
    lines.append(
        f"{'would free' if dry_run else 'freed'} {format_size(freed)}; the store uses {format_size(left)}{of_quota}"
    )
    emit(as_json, result, "\n".join(lines))
