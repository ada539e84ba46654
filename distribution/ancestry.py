"""Ancestry of a model: the releases that it was made from, and those that they were made from, as a graph. No I/O."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from distribution.ancestors import NO_ANCESTORS, Ancestor, Lineage
from distribution.events import Release

FILE = b""  # in place of an id: a local file, which is no release

Edges = Mapping[bytes, Sequence[bytes]]  # ids of the ancestors by id, each key once


class State(StrEnum):
    """What is known of a release in an ancestry."""

    FOUND = "found"  # it is here or on a relay, and verifies
    MISSING = "missing"  # asked for, and not returned
    NOT_ASKED = "not_asked"  # beyond a limit, or without a relay to ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the store and relays returned for an ancestry.

    Args:
        start: The release whose ancestry it is; None for a local file.
        lineage: What the release or the file was made from.
        releases: Verified releases, by id.
        asked: Ids that relays were asked for.
        revoked: Reason of each revocation by the author, or by a key that is named as the author, by release id.
    """

    start: Release | None
    lineage: Lineage
    releases: Mapping[bytes, Release]
    asked: Collection[bytes] = frozenset()
    revoked: Mapping[bytes, str]

    @property
    def start_id(self) -> bytes:
        """Id of the start."""
        return self.start.id if self.start else FILE

    def lineage_of(self, release_id: bytes) -> Lineage:
        """Return what a release was made from; nothing if it was not found."""
        if release_id == self.start_id:
            return self.lineage
        release = self.releases.get(release_id)
        return release.lineage if release else NO_ANCESTORS


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One release of an ancestry."""

    id: bytes  # FILE for a local file
    release: Release | None  # None unless found
    state: State
    authors: tuple[bytes, ...]  # who signed it; if it was not found, whom its descendants name
    misnamed: tuple[bytes, ...] = ()  # keys that descendants name as its author, although another one signed it
    revoked: str | None = None  # the author's reason, which may be empty
    lineage: Lineage = NO_ANCESTORS
    parents: tuple[bytes, ...] = ()  # ids to draw lines to
    in_cycle: bool = False  # never true for ids that are hashes of what they name


def claims_in(known: Known) -> dict[bytes, list[Ancestor]]:
    """Return what is claimed of every release that can be reached from the start, by id, nearest first."""
    claims: dict[bytes, list[Ancestor]] = defaultdict(list)
    queue, seen = [known.start_id], {known.start_id}
    for release_id in queue:
        for _, ancestor in known.lineage_of(release_id).ancestors:
            claims[ancestor.release_id].append(ancestor)
            if ancestor.release_id not in seen:
                seen.add(ancestor.release_id)
                queue.append(ancestor.release_id)
    return claims


def build_ancestry(known: Known) -> list[Node]:
    """Return the releases of an ancestry, descendants before ancestors and newer ones first."""
    claims = claims_in(known)
    ids = dict.fromkeys([known.start_id, *claims])
    parents = {each: _parents(known, each) for each in ids}

    def rank(release_id: bytes) -> tuple[int, bytes]:
        release = known.releases.get(release_id)
        return (-release.created_at if release else 0, release_id)

    order, cyclic = sort_descendants_first(parents, rank)
    return [
        _node(known, each, claims.get(each, []), _without_shortcut(parents, each), in_cycle=each in cyclic)
        for each in order
    ]


def sort_descendants_first(
    parents: Edges, rank: Callable[[bytes], tuple[int, bytes]]
) -> tuple[list[bytes], frozenset[bytes]]:
    """Return the keys so that none comes before one that was made from it, and the keys where a cycle had to be cut.

    Args:
        parents: Ancestors of each key; all of them are keys too.
        rank: The lowest comes first, of those that may come next.
    """
    children = Counter(parent for key in parents for parent in parents[key])
    left, order, cyclic = dict.fromkeys(parents), [], set()
    while left:
        ready = [key for key in left if not children[key]]
        if not ready:
            cyclic.add(min(left, key=rank))
        key = min(ready or left, key=rank)
        order.append(key)
        del left[key]
        children.subtract(parents[key])
    return order, frozenset(cyclic)


def _parents(known: Known, release_id: bytes) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(each.release_id for _, each in known.lineage_of(release_id).ancestors))


def _without_shortcut(parents: Edges, key: bytes) -> tuple[bytes, ...]:
    """Return the ancestors of a key, without the base of a merge if an input leads to it anyway."""
    base, *merged = parents[key] or (b"",)
    return tuple(merged if base in _reachable(parents, merged) else parents[key])


def _reachable(parents: Edges, keys: Iterable[bytes]) -> set[bytes]:
    queue = [*keys]
    seen = set(queue)
    for key in queue:
        new = set(parents.get(key, ())) - seen
        seen |= new
        queue += new
    return seen


def _node(
    known: Known, release_id: bytes, claims: Sequence[Ancestor], parents: tuple[bytes, ...], *, in_cycle: bool
) -> Node:
    release = known.start if release_id == known.start_id else known.releases.get(release_id)
    named = tuple(dict.fromkeys(each.author for each in claims))
    is_missing = release_id in known.asked
    return Node(
        id=release_id,
        release=release,
        state=State.FOUND if release or release_id == FILE else State.MISSING if is_missing else State.NOT_ASKED,
        authors=(release.author,) if release else named,
        misnamed=tuple(author for author in named if release and author != release.author),
        revoked=known.revoked.get(release_id),
        lineage=known.lineage_of(release_id),
        parents=parents,
        in_cycle=in_cycle,
    )
