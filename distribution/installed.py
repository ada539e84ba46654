"""An installed release, and its record: what `release.json` says. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distribution.events import MAX_VERSION, Release, is_card
from distribution.manifest import MAX_FILE_SIZE, FileEntry, Manifest, find_set_fault, is_count, is_digest, is_name


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalFile:
    """What a file was before its beginning was rewritten: the part of a file that its author signed."""

    sha256: bytes
    start: bytes  # what the first bytes were

    def __post_init__(self) -> None:
        if not is_digest(self.sha256) or type(self.start) is not bytes:
            raise ValueError("the hash of an original file is not 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledFile:
    """A verified file of an installed release."""

    path: str  # its name in the release
    role: str
    size: int  # bytes
    sha256: bytes
    chunks: int  # events that carry it
    local_path: Path
    original: OriginalFile | None = None  # where it is only a part of the file that the manifest names

    def __post_init__(self) -> None:
        if not is_name(self.path) or type(self.role) is not str or not is_digest(self.sha256):
            raise ValueError("a file has no allowed path, role or hash")
        if not is_count(self.size, MAX_FILE_SIZE) or not is_count(self.chunks, MAX_FILE_SIZE):
            raise ValueError("a file has no size or no number of chunks")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledRelease:
    """A release whose files are all in the store."""

    id: bytes
    author: bytes
    name: str
    version: int
    created_at: int  # seconds since 1970
    card: Mapping[str, object]
    files: tuple[InstalledFile, ...]
    folder: Path
    installed_at: int  # seconds since 1970

    def __post_init__(self) -> None:
        if not is_digest(self.id) or not is_digest(self.author) or not is_name(self.name):
            raise ValueError("a release has no id, author or name")
        if not is_count(self.version, MAX_VERSION) or not is_card(self.card):
            raise ValueError("a release has no version or no card")
        if fault := find_set_fault([(file.path, file.role) for file in self.files]):
            raise ValueError(fault)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def partial(self) -> bool:
        """Whether it has the weights alone."""
        return any(file.original for file in self.files)

    def file(self, role: str) -> InstalledFile:
        """The file with this role (checkpoint, tokenizer or config)."""
        return next(file for file in self.files if file.role == role)


def to_record(
    release: Release, manifest: Manifest, original: OriginalFile | None, *, installed_at: int
) -> dict[str, object]:
    """What is kept of a release; `original` is what its checkpoint was, if only a part of it is here."""
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
    """The release of which this is the record; raises KeyError, TypeError or ValueError if that is damaged."""
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
