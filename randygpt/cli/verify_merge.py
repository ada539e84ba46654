"""`randygpt verify --merge`: make a published merge again, and compare every byte."""

import sys
from typing import TYPE_CHECKING

from randygpt.cli import installed
from randygpt.cli.obtain import obtain_release
from randygpt.cli.output import byte_progress, emit, is_confirmed
from randygpt.errors import CallerError, InvalidRelease
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.ancestors import Ancestor
    from distribution.installed import InstalledRelease


def verify_merge(
    home: Home, release: "InstalledRelease", relay: list[str] | None, *, yes: bool, as_json: bool, quiet: bool
) -> None:
    """Fetch what a release was merged from, merge it again, and print whether the bytes are the same.

    Raises:
        CallerError: It is no merge, or the inputs may not be fetched without asking.
        InvalidRelease: It is not the merge that its author claims.
        PeerError, TransportError, StorageError: As `fetch_release`.
    """
    from randygpt.merge_claim import MergeClaim

    claim = MergeClaim.read(release)
    store, trusted = installed.open_store(home)
    ancestors = (claim.base, *claim.inputs)
    if not yes:
        _ask([each for each in ancestors if store.release(each.release_id) is None], home)
    shown = not (as_json or quiet)
    base, *inputs = (
        obtain_release(home, each.release_id, relay, shown=shown, reference=_reference(each)) for each in ancestors
    )
    with byte_progress("merging", shown=shown) as on_progress:
        difference = claim.repeat(base, inputs, on_progress)
    title = installed.release_title(release, trusted)
    if as_json or not difference:
        left_out = {each.origin.release for each in claim.record.left_out}
        result = installed.release_json(release, trusted) | {
            "same": not difference,
            "difference": difference,
            "base": base.id.hex(),
            "inputs": [{"release": each.id.hex(), "left_out": each.id in left_out} for each in inputs],
        }
        names = ", ".join(f"{each.title}{' (left out)' if each.id in left_out else ''}" for each in inputs)
        emit(as_json, result, f"same     {title}: merged again from {names}, the bytes are the same")
    if difference:
        raise InvalidRelease(f"{title} is NOT the merge that its author claims: {difference}")


def _reference(ancestor: "Ancestor") -> str:
    """Return how to fetch a release, with the relay that its claim names."""
    from distribution.events import RELEASE_KIND
    from relay_client.nip19 import encode_nevent

    relays = [ancestor.hint] if ancestor.hint else []
    return encode_nevent(ancestor.release_id, author=ancestor.author, kind=RELEASE_KIND, relays=relays)


def _ask(missing: "list[Ancestor]", home: Home) -> None:
    """Ask before releases are fetched that the author named, not the user; raise CallerError if the answer is no."""
    from relay_client.nip19 import short_npub

    _, trusted = installed.open_store(home)
    unknown = {each.author for each in missing if each.author not in trusted.names}
    if not unknown:
        return
    authors = ", ".join(map(short_npub, sorted(unknown)))
    count = sum(each.author in unknown for each in missing)
    what = f"{count} of the merged releases, by {authors}, who are not on your trust list"
    if not sys.stdin.isatty():
        raise CallerError(f"about to fetch {what}; pass --yes to confirm")
    if not is_confirmed(f"Fetch {what}?"):
        raise CallerError("cancelled: nothing was fetched")
