"""Whose models, and which version of them: decisions only, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from distribution.announcement import Head, Release, Seen
from distribution.errors import Equivocation, NotTrusted, Rollback
from relay_client.keys import encode_npub


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """`explicit`: what the user names is trusted. `allowlist`: listed authors only, whatever is named."""

    mode: Literal["explicit", "allowlist"] = "explicit"
    authors: frozenset[bytes] = field(default_factory=frozenset)  # x-only public keys, 32 each

    def check(self, author: bytes) -> None:
        """Raises NotTrusted unless this author's releases may be fetched."""
        if self.mode == "allowlist" and author not in self.authors:
            raise NotTrusted(f"not trusted: {encode_npub(author)} is not on the list")


def latest(heads: Sequence[Head]) -> Head | None:
    """Of one author's heads for one name: highest version, then newest, then lowest id. None if there is none.

    Raises Equivocation if that version stands for two contents.
    """
    if not heads:
        return None
    version = max(head.version for head in heads)
    best = [head for head in heads if head.version == version]
    if len({head.manifest_sha256 for head in best}) > 1:
        raise Equivocation(f"the author signed two different releases as version {version} of {best[0].name}")
    return min(best, key=lambda head: (-head.created_at, head.id))


def check_version(release: Release, seen: Seen | None, *, asked_by_id: bool) -> None:
    """Raises Rollback or Equivocation where `release` contradicts what was seen.

    An older version is fine if the user asked for exactly that release.
    """
    if seen is None:
        return
    if release.version == seen.version and release.manifest_sha256 != seen.manifest_sha256:
        raise Equivocation(f"another release was seen before as version {release.version} of {release.name}")
    if release.version < seen.version and not asked_by_id:
        raise Rollback(f"version {release.version} of {release.name} is older than {seen.version}, seen before")
