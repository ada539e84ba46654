"""Versions of each author's names that this machine has seen. Owns state/seen.json, which a cache clean-up must spare.

{"<author>/<name>": {"versions": {"3": [<release id>, <sha256 of its manifest>]}, "revoked": [<release id>],
"settled": 3}}, keys and hashes in hex.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distribution.events import MAX_VERSION, Release
from distribution.manifest import is_count, is_digest
from distribution.state_file import StateFile
from relay_client.hexadecimal import parse_hex

_KEPT = 100  # per name: the highest versions, and the latest revocations


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenVersion:
    """A version that this machine has seen.

    Raises:
        ValueError: An id or hash is not 32 bytes.
    """

    release_id: bytes
    manifest_sha256: bytes

    def __post_init__(self) -> None:
        if not is_digest(self.release_id) or not is_digest(self.manifest_sha256):
            raise ValueError("an id or hash is not 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Versions and revocations of one author's name that this machine has seen.

    Raises:
        ValueError: A version or id is not possible.
    """

    versions: Mapping[int, SeenVersion] = field(default_factory=dict)
    revoked: frozenset[bytes] = frozenset()  # ids of releases that their author revoked
    acknowledged: int = 0  # highest version that `follow` or the user has acted on

    def __post_init__(self) -> None:
        if not all(is_count(version, MAX_VERSION) for version in self.versions):
            raise ValueError(f"a version is not from 1 to {MAX_VERSION}")
        if not all(map(is_digest, self.revoked)) or not 0 <= self.acknowledged <= MAX_VERSION:
            raise ValueError("an id is not 32 bytes, or what was acknowledged is no version")

    @property
    def highest(self) -> int:
        """Highest version seen that is not revoked, 0 if none is."""
        return max(
            (version for version, seen in self.versions.items() if seen.release_id not in self.revoked), default=0
        )


class SeenVersions:
    """The seen versions of all names. A damaged file raises StoreError: it never counts as empty."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / "state" / "seen.json")

    def seen(self, author: bytes, name: str) -> Seen:
        """Return the versions and revocations seen of a name; raises StoreError."""
        return self._decode(self._file.read()).get(_key(author, name), Seen())

    def find(self, author: bytes, release_id: bytes) -> tuple[str, int] | None:
        """Return name and version of a release of an author, if it was seen; raises StoreError."""
        for key, seen in self._decode(self._file.read()).items():
            owner, _, name = key.partition("/")
            for version, known in seen.versions.items():
                if (owner, known.release_id) == (author.hex(), release_id):
                    return name, version
        return None

    async def record(self, release: Release) -> None:
        """Remember a version for good; its first content stays unless revoked. Raises StoreError and OSError."""
        async with self._file.changing() as content:
            seen = self._decode(content).get(_key(release.author, release.name), Seen())
            known = seen.versions.get(release.version)
            if known is not None and known.release_id not in seen.revoked:
                return
            entry = self._entry(content, release.author, release.name)
            versions = entry["versions"] | {str(release.version): [release.id.hex(), release.manifest_sha256.hex()]}
            entry["versions"] = dict(sorted(versions.items(), key=lambda item: int(item[0]))[-_KEPT:])

    async def revoke(self, author: bytes, name: str, release_ids: Collection[bytes]) -> None:
        """Remember revoked releases of a name for good; raises StoreError and OSError.

        Versions above the highest that is left are no longer acknowledged, since the author may publish them again.
        """
        new = [release_id.hex() for release_id in sorted(set(release_ids) - self.seen(author, name).revoked)]
        if not new:
            return
        async with self._file.changing() as content:
            self._decode(content)
            entry = self._entry(content, author, name)
            entry["revoked"] = list(dict.fromkeys([*entry["revoked"], *new]))[-_KEPT:]
            entry["settled"] = min(entry["settled"], _seen(entry).highest)

    async def acknowledge(self, author: bytes, name: str, version: int) -> None:
        """Remember that `follow` made this version current; raises StoreError and OSError."""
        async with self._file.changing() as content:
            self._decode(content)
            self._entry(content, author, name)["settled"] = version

    async def acknowledge_all(self) -> None:
        """Remember that the user chose the current release after all that was seen; raises StoreError and OSError."""
        if not self._file.read():
            return
        async with self._file.changing() as content:
            for key, seen in self._decode(content).items():
                content[key]["settled"] = max(seen.acknowledged, seen.highest)

    def _decode(self, content: Mapping[str, Any]) -> dict[str, Seen]:
        try:
            return {key: _seen(entry) for key, entry in content.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._file.damaged(error) from None

    @staticmethod
    def _entry(content: dict[str, Any], author: bytes, name: str) -> dict[str, Any]:
        entry: dict[str, Any] = content.setdefault(_key(author, name), {"versions": {}, "revoked": [], "settled": 0})
        return entry


def _key(author: bytes, name: str) -> str:
    return f"{author.hex()}/{name}"


def _seen(entry: Mapping[str, Any]) -> Seen:
    return Seen(
        versions={
            int(version): SeenVersion(release_id=_digest(release_id), manifest_sha256=_digest(digest))
            for version, (release_id, digest) in entry["versions"].items()
        },
        revoked=frozenset(map(_digest, entry["revoked"])),
        acknowledged=entry["settled"] + 0,
    )


def _digest(text: str) -> bytes:
    if (digest := parse_hex(text, 32)) is None:
        raise ValueError(text)
    return digest
