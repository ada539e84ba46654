"""Files of a fetched release by their roles, as `release.json` in its folder tells them. Reads that file.

File names in a release are not roles: its author may call a file `tiny.json` that is no sidecar of `tiny.bin`, and may
add files of other roles that end in `.bin`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from randygpt.errors import InvalidModelFile

_RECORD = "release.json"
_ROLES = ("checkpoint", "config", "tokenizer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFolder:
    """Paths of the three files of a release that make a model."""

    checkpoint: Path
    config: Path
    tokenizer: Path

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the files of a release folder, None for any other folder; raise InvalidModelFile and OSError."""
        path = folder / _RECORD
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return None  # of another program
        if not isinstance(record, Mapping) or not {"release", "files"} <= record.keys():
            return None
        try:
            return cls(**{role: folder / _file_name(record["files"], role) for role in _ROLES})
        except (TypeError, KeyError, ValueError):
            raise InvalidModelFile(f"{path}: damaged; fetch the release again") from None


def release_of(checkpoint: Path) -> ReleaseFolder | None:
    """Return the release whose checkpoint this file is, None if it is no file of a release."""
    release = ReleaseFolder.read(checkpoint.parent)
    return release if release and release.checkpoint.name == checkpoint.name else None


def _file_name(files: object, role: str) -> str:
    """Return the name of the only file with a role; raise ValueError and TypeError if the record is damaged."""
    if not isinstance(files, list):
        raise TypeError("files is not a list")
    (name,) = [file["path"] for file in files if file["role"] == role]
    if not isinstance(name, str) or name != Path(name).name or "\0" in name:
        raise ValueError("not a file name")
    return name
