"""What is kept of a release's events, so that anybody who has its files can send it again. Does disk I/O.

store/events/<event id>/manifest.jsonl   the manifest's events, whole
store/events/<event id>/head.json        the head that named it, if it was found by its name
store/events/<event id>/signatures       of the files' chunks: (event id ‖ signature), 96 bytes each

Content, hash and time of a chunk's event follow from the files and the release; its signature does not.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from distribution.errors import StoreError
from relay_client import durable
from relay_client.errors import InvalidEvent
from relay_client.event import Event, decode_hex

_ID, _SIGNATURE = 32, 64
_RECORD = _ID + _SIGNATURE
_MANIFEST, _HEAD, _SIGNATURES = "manifest.jsonl", "head.json", "signatures"


class SignatureLog:
    """Signatures as they come with a release's chunks; a context manager. They are believed when they are used."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(size - size % _RECORD)  # what a killed predecessor wrote in part

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, raw_event: Mapping[str, object]) -> None:
        """Note the signature of an event whose id and form are checked; raises OSError."""
        self._file.write(decode_hex(raw_event["id"], _ID) + decode_hex(raw_event["sig"], _SIGNATURE))


class EventArchive:
    """The events kept below a home folder."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "store" / "events"

    def folder(self, release_id: bytes) -> Path:
        """Where the events of one release are kept."""
        return self._folder / release_id.hex()

    def keep_manifest(self, release_id: bytes, events: Iterable[Event]) -> None:
        """Keep the verified events of a manifest, in order; raises OSError."""
        self._keep(release_id, _MANIFEST, events)

    def keep_head(self, release_id: bytes, event: Event) -> None:
        """Keep the verified head that names a release; raises OSError."""
        self._keep(release_id, _HEAD, [event])

    def manifest(self, release_id: bytes) -> list[Event]:
        """The events of a release's manifest, in order; empty if they are not here. Raises StoreError and OSError."""
        return self._read(release_id, _MANIFEST)

    def head(self, release_id: bytes) -> Event | None:
        """The head that named a release, if it is here; raises StoreError and OSError."""
        return next(iter(self._read(release_id, _HEAD)), None)

    def _keep(self, release_id: bytes, name: str, events: Iterable[Event]) -> None:
        folder = durable.make_directory(self.folder(release_id))
        durable.write(folder / name, b"".join(event.to_json() + b"\n" for event in events))

    def _read(self, release_id: bytes, name: str) -> list[Event]:
        path = self.folder(release_id) / name
        try:
            return [Event.parse(orjson.loads(line)) for line in path.read_bytes().splitlines()]
        except FileNotFoundError:
            return []
        except (orjson.JSONDecodeError, InvalidEvent) as error:
            raise StoreError(f"{path}: damaged ({error})") from None

    def log(self, release_id: bytes) -> SignatureLog:
        """Begin to note the signatures of a release's chunks, or go on; raises OSError."""
        return SignatureLog(durable.make_directory(self.folder(release_id)) / _SIGNATURES)

    def signatures(self, release_id: bytes) -> dict[bytes, bytes]:
        """Event id to signature, as relays gave them: not verified. Raises OSError."""
        try:
            data = (self.folder(release_id) / _SIGNATURES).read_bytes()
        except FileNotFoundError:
            return {}
        records = (data[start : start + _RECORD] for start in range(0, len(data) - _RECORD + 1, _RECORD))
        return {record[:_ID]: record[_ID:] for record in records}
