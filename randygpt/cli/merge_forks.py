"""The forks that `randygpt merge --forks` merges, and the question before they are fetched."""

import asyncio
import sys
from typing import TYPE_CHECKING

from randygpt.cli import installed
from randygpt.cli.log import find_start
from randygpt.cli.output import format_date, is_confirmed, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.events import Release


def choose_forks(
    home: Home, which: str, relay: list[str] | None, *, trusted: bool, yes: bool, quiet: bool
) -> "tuple[Release, list[Release]]":
    """Return a release, and its forks by authors on the trust list: the newest of each name, without merges.

    Args:
        home: The user's home.
        which: The release that was forked.
        relay: Relays to ask instead of the user's.
        trusted: Whether the user said that only trusted authors count.
        yes: Do not ask.
        quiet: List the forks only if a question follows.

    Raises:
        CallerError: No forks, too many, or not confirmed.
        PeerError, TransportError, StorageError: As `find_forks`.
    """
    from randygpt.lineage import find_forks
    from randygpt.model.merge import MAX_INPUTS, MIN_INPUTS

    if not trusted:
        raise CallerError("--forks merges forks by authors on your trust list: pass --trusted, or name the models")
    base, _, title = find_start(home, which, relay)
    if base is None:
        raise CallerError(f"{title} is a file: only a release has forks")
    result = asyncio.run(find_forks(home, base, relays=relay, only_trusted=True))
    for reason in result.incomplete:
        print_stderr(f"incomplete: {reason}")
    forks = [each.release for each in result.found if each.role == "base" and not each.release.merged]
    if len(forks) < MIN_INPUTS:
        count = "one fork" if forks else "no fork"
        raise CallerError(
            f"{count} of {title} by authors on your trust list: a merge needs {MIN_INPUTS} (randygpt forks)"
        )
    if len(forks) > MAX_INPUTS:
        raise CallerError(
            f"{len(forks)} forks of {title}: name {MAX_INPUTS} of them, at most (randygpt forks --trusted)"
        )
    can_ask = sys.stdin.isatty()
    if not quiet or (can_ask and not yes):
        _, names = installed.open_store(home)
        for each in forks:
            print_stderr(f"fork  {installed.release_title(each, names)}, {format_date(each.created_at)}")
    if not yes and not can_ask:
        raise CallerError(f"about to fetch and merge {len(forks)} forks of {title}; pass --yes to confirm")
    if not yes and not is_confirmed(f"Merge these {len(forks)} forks of {title}?"):
        raise CallerError("cancelled: nothing was merged")
    return base, forks
