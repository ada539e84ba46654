"""Releases that a checkpoint was made from: between its sidecar and the tags of a release. No I/O."""

from distribution.ancestors import MAX_MERGED, MIN_MERGED, NO_ANCESTORS, Ancestor, Lineage
from distribution.events import Release
from distribution.installed import InstalledRelease
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.sidecar import Sidecar
from relay_client.hints import usable_hints


def origin_of(release: Release | InstalledRelease) -> Origin:
    """Return what a sidecar records of a release; the relay only if others can use it."""
    relay = next(iter(usable_hints(release.hints, known=())), "")
    return Origin(release=release.id, author=release.author, relay=relay)


def lineage_of(sidecar: Sidecar | None, base: Origin | None = None) -> Lineage:
    """Return the ancestors that a checkpoint's sidecar records; `base` alone if the checkpoint is that release."""
    if base:
        return Lineage(base=_ancestor(base))
    if sidecar is None or sidecar.base is None:
        return NO_ANCESTORS
    merged = tuple(map(_ancestor, sidecar.merged))
    return Lineage(base=_ancestor(sidecar.base), merged=merged if MIN_MERGED <= len(merged) <= MAX_MERGED else ())


def _ancestor(origin: Origin) -> Ancestor:
    return Ancestor(release_id=origin.release, hint=origin.relay, author=origin.author)
