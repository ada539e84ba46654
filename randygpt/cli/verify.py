"""`randygpt verify`: whether files are still what their author signed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.output import Json, Quiet, emit, remark
from randygpt.settings import Home

if TYPE_CHECKING:
    from distribution.store import InstalledRelease, Store
    from distribution.trustlist import TrustList

EXAMPLE = "Example: randygpt verify shakespeare"


def verify(
    which: Annotated[
        str | None, typer.Argument(metavar="[FILE|RELEASE]", help="A checkpoint or an installed release; else all.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hash what is installed again, and name what is damaged."""
    from distribution.errors import StoreError

    if which and Path(which).exists():
        _verify_file(Path(which), as_json=as_json)
        return
    if which:
        store, trusted, release = installed.named(which)
        releases = [release]
    else:
        store, trusted = installed.local(Home.from_environment())
        releases = store.releases()
    damaged = _check(store, trusted, releases, as_json=as_json, quiet=quiet)
    if damaged:
        raise StoreError(f"damaged: {', '.join(damaged)} (fetch it again)")


def _check(
    store: "Store", trusted: "TrustList", releases: "list[InstalledRelease]", *, as_json: bool, quiet: bool
) -> list[str]:
    """Hash every file of some releases and print how they are; returns the damaged ones."""
    entries, lines, damaged = [], [], []
    for release in releases:
        bad = [str(file.local) for file in store.damaged(release)]
        damaged += bad
        entries.append(installed.facts(release, trusted) | {"intact": not bad, "damaged": bad})
        lines.append(f"{'damaged' if bad else 'intact '}  {installed.title(release, trusted)}")
    if as_json:
        emit(as_json, {"releases": entries}, "")
    elif lines:
        emit(as_json, {}, "\n".join(lines))
    elif not quiet:
        remark("nothing is installed")
    return damaged


def _verify_file(path: Path, *, as_json: bool) -> None:
    """A checkpoint outside the store: its form and its numbers, and whether a release here has the same bytes."""
    import hashlib

    from randygpt.checkpoint import read_checkpoint
    from randygpt.sidecar import describe, find_checkpoint

    found = describe(find_checkpoint(path))
    read_checkpoint(found.path, found.config)
    with found.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    store, trusted = installed.local(Home.from_environment())
    same = [release for release in store.releases() if digest in {file.sha256 for file in release.files}]
    signed = f"the checkpoint of {installed.title(same[0], trusted)}" if same else "of no release installed here"
    result = {"file": str(found.path), "sha256": digest.hex(), "intact": True}
    releases = [installed.facts(release, trusted) for release in same]
    emit(as_json, result | {"releases": releases}, f"intact   {found.path}, {signed}")
