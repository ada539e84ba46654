"""`randygpt gc`: free the disk of what is not in use, and say how much the store may take."""

import asyncio
from typing import Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.output import Json, Quiet, emit, format_size, parse_size, validator
from randygpt.user.home import Home

EXAMPLE = "Example: randygpt gc --keep 3 --quota 20G"


def _bytes(text: str) -> int | None:
    return None if text == "none" else parse_size(text)


def gc(
    keep: Annotated[int, typer.Option(min=0, metavar="N", help="Keep the N releases installed last as well.")] = 0,
    quota: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="From now on the store takes no more than this, like 20G; `none`: no limit.",
            callback=validator(_bytes),
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Remove releases that are not current, previous or pinned, and what is left of fetches that ended long ago.

    Safe beside a running fetch. Under a quota, a fetch removes old releases by itself before it refuses.
    """
    from distribution.gc import GarbageCollector, Quota, disk_usage

    store, trusted = installed.open_store(Home.from_environment())
    limits = Quota(store.home)
    if quota is not None and not dry_run:
        asyncio.run(limits.set(_bytes(quota)))
    gone = GarbageCollector(store).collect(keep=keep, dry_run=dry_run) if store.folder.is_dir() else []
    freed, left, limit = sum(item.bytes for item in gone), disk_usage(store), limits.read()
    releases = [item.release for item in gone if item.release]
    result = {
        "releases": [installed.release_json(release, trusted) for release in releases],
        "files": [str(item.path) for item in gone if not item.release],
        "freed": freed,
        "used": left,
        "quota": limit,
        "dry_run": dry_run,
    }
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb} {installed.release_title(release, trusted)}" for release in releases]
    of_quota = f" of {format_size(limit)}" if limit else ""
    lines.append(
        f"{'would free' if dry_run else 'freed'} {format_size(freed)}; the store takes {format_size(left)}{of_quota}"
    )
    emit(as_json, result, "\n".join(lines))
