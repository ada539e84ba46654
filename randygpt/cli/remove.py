"""`randygpt remove`: remove releases from the store."""

from typing import Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import Json, Quiet
from randygpt.cli.output import emit, format_size
from randygpt.user.home import Home

EXAMPLE = "Example: randygpt remove shakespeare@1"


def remove(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help=installed.RELEASE_HELP, autocompletion=installed.complete),
    ],
    force: Annotated[bool, typer.Option("--force", help="Remove the current release too.")] = False,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Remove a release from the store.

    Frees the files that no other release needs. Refuses a pinned release and, without --force, the current one. A
    running server keeps the model that it has loaded. To install a removed release again, fetch it.
    """
    from distribution.remove import check_removable, remove_release
    from distribution.resolve import resolve_installed

    store, trusted = installed.open_store(Home.from_environment())
    found = {release.id: release for release in (resolve_installed(store, trusted, which) for which in models)}
    for release in found.values():  # all of them, or none
        check_removable(store, release, force=force)
    removed = [remove_release(store, release, force=force) for release in found.values()]
    freed = sum(each.freed for each in removed)
    result = {"releases": [installed.release_json(each.release, trusted) for each in removed], "freed": freed}
    lines = [f"removed {installed.release_title(each.release, trusted)}" for each in removed]
    emit(as_json, result, "\n".join([*lines, f"freed {format_size(freed)}"]))
