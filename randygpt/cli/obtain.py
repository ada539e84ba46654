"""Models that a command reads, fetched first where they are not installed. Network and disk I/O."""

import asyncio
from typing import TYPE_CHECKING

from randygpt.cli import installed
from randygpt.cli.models import find_model
from randygpt.cli.output import byte_progress, print_stderr
from randygpt.errors import NotInstalled
from randygpt.user.home import Home

if TYPE_CHECKING:
    from randygpt.merging import MergeSource


def obtain(home: Home, which: str, relay: list[str] | None, *, shown: bool) -> "MergeSource":
    """Return the model that a word names; fetch its weights, without making it current, if it is not installed.

    Args:
        home: The user's home.
        which: A file, a PREFIX, an installed release, or a reference to one on relays.
        relay: Relays to ask instead of the user's.
        shown: Show progress.

    Raises:
        CallerError: Nothing matches.
        PeerError, TransportError, StorageError: As `fetch_release`.
    """
    from randygpt.merging import MergeSource

    try:
        found = find_model(which)
    except NotInstalled:
        return _fetch(home, which, relay, shown=shown)
    return MergeSource.read(found.path, found.release)


def obtain_release(
    home: Home, release_id: bytes, relay: list[str] | None, *, shown: bool, reference: str = ""
) -> "MergeSource":
    """Return the release with this id; fetch its weights if it is not installed. Raise what `obtain` raises.

    `reference` is how to fetch it, by default the id.
    """
    from randygpt.merging import MergeSource

    store, _ = installed.open_store(home)
    if release := store.release(release_id):
        return MergeSource.read(release.file("checkpoint").local_path, release)
    return _fetch(home, reference or release_id.hex(), relay, shown=shown)


def _fetch(home: Home, which: str, relay: list[str] | None, *, shown: bool) -> "MergeSource":
    from randygpt.fetching import FetchOptions, fetch_release
    from randygpt.merging import MergeSource

    if shown:
        print_stderr(f"fetching {which}")
    options = FetchOptions(relays=relay, weights_only=True, on_warning=print_stderr if shown else lambda _text: None)
    with byte_progress("fetching", shown=shown) as on_progress:
        fetched = asyncio.run(fetch_release(home, which, options, activate=False, on_progress=on_progress))
    return MergeSource.read(fetched.release.file("checkpoint").local_path, fetched.release)
