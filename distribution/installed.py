"""Installed release, and its record in `release.json`. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distribution.ancestors import NO_ANCESTORS, Lineage, parse_lineage
from distribution.event_tags import relay_hints
from distribution.events import MAX_VERSION, SHORT_ID, Release, is_card
from distribution.manifest import MAX_FILE_SIZE, FileEntry, Manifest, find_set_fault, is_count, is_digest, is_name


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalFile:
    """The first segment of a file as its author signed it, before its first bytes were rewritten.

    Raises:
        ValueError: The values cannot belong to a file.
    """

    sha256: bytes
    start: bytes  # its first bytes before the rewrite

    def __post_init__(self) -> None:
        if not is_digest(self.sha256) or type(self.start) is not bytes:
            raise ValueError("the hash of an original file is not 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledFile:
    """Verified file of an installed release.

    Raises:
        ValueError: The values cannot belong to a release.
    """

    path: str  # its name in the release
    role: str
    size: int  # bytes
    sha256: bytes
    chunks: int  # number of chunks in the manifest
    local_path: Path
    original: OriginalFile | None = None  # set if only the weights of the file are installed

    def __post_init__(self) -> None:
        if not is_name(self.path) or type(self.role) is not str or not is_digest(self.sha256):
            raise ValueError("a file has no allowed path, role or hash")
        if not is_count(self.size, MAX_FILE_SIZE) or not is_count(self.chunks, MAX_FILE_SIZE):
            raise ValueError("a file has no size or no number of chunks")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledRelease:
    """Release whose files are all in the store.

    Raises:
        ValueError: The values cannot belong to a release.
    """

    id: bytes
    author: bytes
    name: str
    version: int
    created_at: int  # seconds since 1970
    card: Mapping[str, object]
    files: tuple[InstalledFile, ...]
    folder: Path
    installed_at: int  # seconds since 1970
    lineage: Lineage = NO_ANCESTORS  # what it was made from, as the author claims
    hints: tuple[str, ...] = ()  # relays that may have it, untrusted

    def __post_init__(self) -> None:
        if not is_digest(self.id) or not is_digest(self.author) or not is_name(self.name):
            raise ValueError("a release has no id, author or name")
        if not is_count(self.version, MAX_VERSION) or not is_card(self.card):
            raise ValueError("a release has no version or no card")
        if fault := find_set_fault([(file.path, file.role) for file in self.files]):
            raise ValueError(fault)

    @property
    def title(self) -> str:
        """Name and version, as people read them."""
        return f"{self.name} version {self.version}"

    @property
    def short_id(self) -> str:
        """First hex digits of the id."""
        return self.id.hex()[:SHORT_ID]

    @property
    def size(self) -> int:
        """Size of all files together, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def partial(self) -> bool:
        """True if only the weights are installed."""
        return any(file.original for file in self.files)

    def file(self, role: str) -> InstalledFile:
        """Return the file with this role (checkpoint, tokenizer or config)."""
        return next(file for file in self.files if file.role == role)


def to_record(
    release: Release, manifest: Manifest, original: OriginalFile | None, *, installed_at: int
) -> dict[str, object]:
    """Return the content of `release.json`.

    Args:
        release: The verified release.
        manifest: Its files as they are installed.
        original: The signed first segment of the checkpoint, if only the weights are installed.
        installed_at: Seconds since 1970.
    """
    return {
        "release": release.id.hex(),
        "author": release.author.hex(),
        "name": release.name,
        "version": release.version,
        "format": release.format,
        "created_at": release.created_at,
        "installed_at": installed_at,
        "manifest_sha256": release.manifest_sha256.hex(),
        "card": release.card,
        "partial": original is not None,
        "files": [_to_file_record(file, original) for file in manifest.files],
        "event": release.event.to_dict(),
    }


def _to_file_record(file: FileEntry, original: OriginalFile | None) -> dict[str, object]:
    record: dict[str, object] = {
        "path": file.path,
        "role": file.role,
        "size": file.size,
        "sha256": file.sha256.hex(),
        "chunks": file.chunk_count,
    }
    if original and file.role == "checkpoint":
        record["original"] = {"sha256": original.sha256.hex(), "start": original.start.hex()}
    return record


def from_record(record: Mapping[str, Any], folder: Path) -> InstalledRelease:
    """Parse the content of `release.json`; raises KeyError, TypeError, ValueError or AttributeError for damage."""
    tags = tuple(map(tuple, record["event"]["tags"]))
    return InstalledRelease(
        id=bytes.fromhex(record["release"]),
        author=bytes.fromhex(record["author"]),
        name=record["name"],
        version=record["version"],
        created_at=record["created_at"],
        card=record["card"],
        files=tuple(_from_file_record(file, folder) for file in record["files"]),
        folder=folder,
        installed_at=record["installed_at"],
        lineage=parse_lineage(tags),
        hints=relay_hints(tags),
    )


def _from_file_record(record: Mapping[str, Any], folder: Path) -> InstalledFile:
    original = record.get("original")
    return InstalledFile(
        path=record["path"],
        role=record["role"],
        size=record["size"],
        sha256=bytes.fromhex(record["sha256"]),
        chunks=record["chunks"],
        local_path=folder / record["path"],
        original=OriginalFile(sha256=bytes.fromhex(original["sha256"]), start=bytes.fromhex(original["start"]))
        if original
        else None,
    )
