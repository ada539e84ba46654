"""Trust decisions: which authors, and which version of a name. No I/O."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from distribution.errors import CallerError, Equivocation, NotTrusted, Rollback
from distribution.events import Head, Release
from distribution.manifest import is_digest
from distribution.seen_versions import Seen
from relay_client.errors import quote
from relay_client.nip19 import encode_npub

Mode = Literal["explicit", "allowlist"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """Rule for which authors' releases may be fetched.

    `explicit` trusts every release that the user names; `allowlist` trusts listed authors only.

    Raises:
        CallerError: The mode is unknown, or an author is not 32 bytes.
    """

    mode: Mode = "explicit"
    authors: frozenset[bytes] = field(default_factory=frozenset)  # x-only public keys, 32 each

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise CallerError(f"not a trust policy: {quote(self.mode)} ({' or '.join(MODES)})")
        if not all(map(is_digest, self.authors)):
            raise CallerError("a trusted author is not a public key of 32 bytes")

    def check(self, author: bytes) -> None:
        """Raise NotTrusted unless this author's releases may be fetched."""
        if self.mode == "allowlist" and author not in self.authors:
            raise NotTrusted(f"not trusted: {encode_npub(author)} is not on your trust list (randygpt trust add)")


def latest(heads: Sequence[Head], revoked: Collection[bytes] = ()) -> Head | None:
    """Return the latest head of one author's name: highest version, then newest, then lowest id.

    Args:
        heads: Heads of one author and name.
        revoked: Ids of revoked releases; their heads do not count.

    Returns:
        The head, or None if none counts.

    Raises:
        Equivocation: The highest version has two contents.
    """
    good = [head for head in heads if head.release_id not in revoked]
    if not good:
        return None
    version = max(head.version for head in good)
    best = [head for head in good if head.version == version]
    if len({head.manifest_sha256 for head in best}) > 1:
        raise Equivocation(f"the author signed two different releases as version {version} of {best[0].name}")
    return min(best, key=lambda head: (-head.created_at, head.id))


def check_version(release: Release, seen: Seen, *, asked_by_id: bool) -> None:
    """Check a release against the versions seen before.

    Args:
        release: The verified release.
        seen: What this machine has seen of its name.
        asked_by_id: The user named exactly this release, so an older version is allowed.

    Raises:
        Rollback: A higher version that is not revoked was seen before.
        Equivocation: Other content was seen before under the same version.
    """
    known = seen.versions.get(release.version)
    if known and known.release_id not in seen.revoked and known.manifest_sha256 != release.manifest_sha256:
        raise Equivocation(f"version {release.version} of {release.name} was another release when it was seen before")
    if release.version < seen.highest and not asked_by_id:
        raise Rollback(f"version {release.version} of {release.name} is older than {seen.highest}, seen before")
