"""Receipts: which relay accepted which event of a release, so that a rerun neither sends nor asks again.

Each release has a folder with one file per relay: the 32-byte ids of the events in the order of the relay's answers,
appended as they arrive. The file survives the death of the process. It need not survive a power loss, since a rerun
asks relays for events without a receipt. Does disk I/O.
"""

import hashlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from relay_client import durable

_ID = 32  # bytes


class Receipts:
    """Receipts of one release; a context manager. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        durable.make_directory(self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def accepted_by(self, relay: str) -> frozenset[bytes]:
        """Return the ids of the events that a relay accepted."""
        try:
            data = self._path(relay).read_bytes()
        except FileNotFoundError:
            return frozenset()
        return frozenset(data[start : start + _ID] for start in range(0, len(data) - _ID + 1, _ID))

    def add(self, relay: str, event_id: bytes) -> None:
        """Record that a relay accepted an event."""
        if relay not in self._files:
            self._files[relay] = self._stack.enter_context(durable.open_to_append(self._path(relay), buffering=0))
        self._files[relay].write(event_id)

    def forget(self, relay: str) -> None:
        """Discard the receipts of a relay that lost its events."""
        if file := self._files.pop(relay, None):
            file.close()
        self._path(relay).unlink(missing_ok=True)

    def _path(self, relay: str) -> Path:
        return self._folder / hashlib.sha256(relay.encode()).hexdigest()[:32]
