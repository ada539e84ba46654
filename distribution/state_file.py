"""Small JSON files below `state/` that several processes change: read whole, replaced whole. Does disk I/O."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
from filelock import AsyncFileLock

from distribution.errors import StoreError
from relay_client import durable

_LOCK_S = 30.0  # whoever holds it changes a few bytes


class StateFile:
    """A JSON object in a file. Reading makes no folder; what is damaged is never taken for empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """What it holds, an empty object before the first change; raises StoreError if it is damaged."""
        try:
            content = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except orjson.JSONDecodeError as error:
            raise self.damaged(error) from None
        if not isinstance(content, dict):
            raise self.damaged("not an object")
        return content

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[dict[str, Any]]:
        """What it holds, to be changed in place; replaced durably on leaving, if anything is different then.

        One at a time, whichever process. Raises StoreError and OSError.
        """
        durable.make_directory(self.path.parent)
        async with AsyncFileLock(self.path.with_suffix(".lock"), timeout=_LOCK_S):
            content = self.read()
            before = _encode(content)
            yield content
            after = _encode(content)
            if after != before or not self.path.exists():
                durable.write(self.path, after)

    def damaged(self, why: object) -> StoreError:
        """The error for content that is not what it should be."""
        return StoreError(f"{self.path}: damaged ({why if isinstance(why, str) else repr(why)})")


def _encode(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
