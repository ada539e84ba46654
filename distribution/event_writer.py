"""Events of a release into a file, one JSON object a line in the order in which relays must get them.

The head is last, so that a reader of a relay that imports the file sees a complete release. Does disk I/O.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from distribution.local_release import LocalRelease
from distribution.plan import Plan
from distribution.publish_record import PublishRecord
from relay_client.event import Event, Signer

OnProgress = Callable[[int, int], None]  # bytes written so far, total bytes; both approximate for an installed release


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenEvents:
    """Result of writing the events of an installed release."""

    events: int
    bytes: int
    copies: int  # chunks without their author's signature
    missing: int  # chunks that are not installed, as with the weights only
    head: bool  # whether a head is among them


class EventWriter:
    """Writes events to an open file. Its methods raise OSError."""

    def __init__(self, file: BinaryIO, *, on_progress: OnProgress = lambda _done, _total: None) -> None:
        self._file = file
        self._on_progress = on_progress
        self._events = 0
        self._bytes = 0  # of the events, without line ends

    def write_plan(self, plan: Plan, chunk_key: Signer, last: Sequence[Event]) -> int:
        """Sign and write the chunks of a publish, then write its `last` events; return the bytes of all.

        Raises:
            CallerError: A file changed while it was read.
        """
        self._write_all((planned.sign(chunk_key) for planned in plan.events[: plan.chunks]), plan.size)
        self._write_all(last, plan.size)
        return self._bytes

    def write_installed(self, local: LocalRelease) -> WrittenEvents:
        """Write the events of an installed release, and its head if it is stored; raises StoreError.

        A chunk whose signature is not stored is written as a copy, under a throw-away key.
        """
        chunks, missing = local.plan()
        total = sum(each.chunk.size for each in chunks)
        self._write_all((local.event(each) for each in chunks), total)
        self._write_all(local.announcement, total)
        self._write_all(filter(None, [local.head()]), total)
        return WrittenEvents(
            events=self._events,
            bytes=self._bytes,
            copies=sum(each.sig is None for each in chunks),
            missing=missing,
            head=local.head() is not None,
        )

    def _write_all(self, events: Iterable[Event], total: int) -> None:
        for event in events:
            self._write(event, total)

    def _write(self, event: Event, total: int) -> None:
        line = event.to_json()
        self._file.write(line + b"\n")
        self._events += 1
        self._bytes += len(line)
        self._on_progress(min(self._bytes, total), total)


def head_time(records: Iterable[PublishRecord], version: int) -> int:
    """Return the date of the head of a version: of its publish, and above those of the versions before it.

    Relays keep the newest head, so that importing an older file later does not bring an older version back.

    Args:
        records: Publishes of one name.
        version: One of their versions.
    """
    date = 0
    for record in sorted(records, key=lambda record: record.version):
        if record.version <= version:
            date = max(date + 1, record.created_at)
    return date
