"""Small JSON files that several processes change, and the version of their schemas. Does disk I/O.

A file without `schema_version` has version 1, which is what this program reads and writes. A program that changes what
a file means writes the next number into it, and keeps reading the older ones; a file with a number that this program
does not know is refused and never overwritten (docs/decisions/0043-state-file-versions.md).
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from distribution import locking
from distribution.errors import NewerState, StoreError
from relay_client import durable

SCHEMA_VERSION = 1  # of every state file
_VERSION_KEY = "schema_version"
_LOCK_S = 30.0  # its holder changes a few bytes


def newer_state(path: Path, version: object, known: int = SCHEMA_VERSION) -> NewerState:
    """Return the error for a file of a schema version later than `known`."""
    return NewerState(
        f"{path}: written by a newer version of randygpt (schema version {version!s:.20}, this one knows "
        f"{known}): update randygpt"
    )


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object of the present schema version.

    Returns:
        Its content without the version, or None if no such file exists.

    Raises:
        StoreError: The file is damaged: it never counts as empty.
        NewerState: A newer program wrote it.
        OSError: The file cannot be read.
    """
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except orjson.JSONDecodeError as error:
        raise damaged(path, error) from None
    if not isinstance(content, dict):
        raise damaged(path, "not an object")
    version = content.pop(_VERSION_KEY, SCHEMA_VERSION)
    if type(version) is not int or version < 1:
        raise damaged(path, f"{_VERSION_KEY} is no version")
    if version > SCHEMA_VERSION:
        raise newer_state(path, version)
    return content


def damaged(path: Path, why: object) -> StoreError:
    """Return the error for content that is not what it should be."""
    return StoreError(f"{path}: damaged ({why if isinstance(why, str) else repr(why)})")


class StateFile:
    """A JSON object in a file: read whole, replaced whole. Reading creates no folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """Return the content, an empty object before the first change; raises what `read_object` raises."""
        return read_object(self.path) or {}

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[dict[str, Any]]:
        """Lock the file, yield its content to be changed in place, and replace the file durably if it changed.

        Raises:
            StoreError: The file is damaged, or a newer program wrote it; it stays as it is.
            OSError: The disk failed.
        """
        async with locking.hold(self.path.with_suffix(".lock"), timeout_s=_LOCK_S):
            content = self.read()
            before = _encode(content)
            yield content
            after = _encode(content)
            if after != before or not self.path.exists():
                durable.write(self.path, after)

    def damaged(self, why: object) -> StoreError:
        """Return the error for content that is not what it should be."""
        return damaged(self.path, why)


def _encode(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
