"""Ancestors of a release, as its author claims them: `b` tags to and from events. No I/O.

A tag is `["b", release id, relay hint, author, role]`, where the role is `base` (fine-tuned from it) or `merged` (an
input of a merge). Tags that break the rules state nothing, so that no tag makes a release unreadable.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distribution.errors import InvalidRelease
from distribution.manifest import is_digest
from relay_client.event import Tags
from relay_client.hexadecimal import parse_hex
from relay_client.hints import usable_hints

MIN_MERGED, MAX_MERGED = 2, 16  # inputs of a merge

_TAG, _BASE, _MERGED = "b", "base", "merged"
_FIELDS = 5  # of a tag; more are ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """A release from which another was made. A claim: it is signed, but not checked.

    Raises:
        InvalidRelease: Id or author is not 32 bytes.
    """

    release_id: bytes  # event id, 32
    hint: str = ""  # relay that may have it, untrusted; empty: none
    author: bytes  # x-only public key, 32

    def __post_init__(self) -> None:
        if not is_digest(self.release_id) or not is_digest(self.author):
            raise InvalidRelease("id or author of an ancestor is not 32 bytes")
        if type(self.hint) is not str:
            raise InvalidRelease("the relay hint of an ancestor is not text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The ancestors of one release: none, the base, or the base and the inputs of a merge.

    Raises:
        InvalidRelease: No release can have these ancestors.
    """

    base: Ancestor | None = None
    merged: tuple[Ancestor, ...] = ()

    def __post_init__(self) -> None:
        ids = {each.release_id for each in self.merged}
        if self.merged and self.base is None:
            raise InvalidRelease("a merge names no base")
        if self.merged and not (MIN_MERGED <= len(ids) == len(self.merged) <= MAX_MERGED):
            raise InvalidRelease(f"a merge has {MIN_MERGED} to {MAX_MERGED} different inputs")

    @property
    def ancestors(self) -> list[tuple[str, Ancestor]]:
        """Pairs of role (base or merged) and ancestor, in the order of the tags."""
        base = [(_BASE, self.base)] if self.base else []
        return [*base, *((_MERGED, each) for each in self.merged)]

    @property
    def tags(self) -> Tags:
        """The tags that state it; only hints that readers follow are named."""
        return tuple(
            (_TAG, each.release_id.hex(), next(iter(usable_hints([each.hint], known=())), ""), each.author.hex(), role)
            for role, each in self.ancestors
        )


NO_ANCESTORS = Lineage()


def parse_lineage(tags: Iterable[Sequence[str]]) -> Lineage:
    """Return the ancestors that the tags of a release event state.

    Malformed tags are ignored, and a second tag of the same release and role too. Two bases state no ancestor at all;
    inputs of a merge count only with a base, and if there are 2 to 16.
    """
    found: dict[str, dict[bytes, Ancestor]] = {_BASE: {}, _MERGED: {}}
    for tag in tags:
        if len(tag) < _FIELDS or tag[0] != _TAG or tag[4] not in found:
            continue
        release_id, author = parse_hex(tag[1], 32), parse_hex(tag[3], 32)
        if release_id and author:
            ancestor = Ancestor(release_id=release_id, hint=tag[2], author=author)
            found[tag[4]].setdefault(release_id, ancestor)
    bases, merged = tuple(found[_BASE].values()), tuple(found[_MERGED].values())
    if len(bases) != 1:
        return NO_ANCESTORS
    return Lineage(base=bases[0], merged=merged if MIN_MERGED <= len(merged) <= MAX_MERGED else ())
