"""Archive of a release's events, from which anyone who has its files can send it again. Does disk I/O.

store/events/<event id>/manifest.jsonl   the manifest's events, complete
store/events/<event id>/head.json        the head that named it, if it was fetched by name
store/events/<event id>/signatures       of the chunk events: (event id ‖ signature), 96 bytes each

The content, hash and time of a chunk event follow from the files and the release; its signature does not.
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
_MANIFEST_BYTES = "manifest.msgpack"
_MANIFEST, _HEAD, _SIGNATURES = "manifest.jsonl", "head.json", "signatures"


class SignatureLog:
    """Append-only log of the signatures of chunk events; a context manager. They are verified when they are used."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size if path.exists() else 0
        self._file = durable.open_to_append(path)
        self._file.truncate(size - size % _RECORD)  # an incomplete record of a process that was killed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, raw_event: Mapping[str, object]) -> None:
        """Append the signature of an event whose id and form were checked; raises OSError."""
        self._file.write(decode_hex(raw_event["id"], _ID) + decode_hex(raw_event["sig"], _SIGNATURE))


class EventArchive:
    """Events of installed releases, below a home folder."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "store" / "events"

    def folder(self, release_id: bytes) -> Path:
        """Return the folder with the events of one release."""
        return self._folder / release_id.hex()

    def keep_manifest(self, release_id: bytes, events: Iterable[Event]) -> None:
        """Store the verified events of a manifest, in order; raises OSError."""
        self._keep(release_id, _MANIFEST, events)

    def keep_manifest_bytes(self, release_id: bytes, encoded: bytes) -> None:
        """Store a manifest that came from a server, without events; raises OSError."""
        durable.write(durable.make_directory(self.folder(release_id)) / _MANIFEST_BYTES, encoded)

    def manifest_bytes(self, release_id: bytes) -> bytes | None:
        """Return the manifest that came from a server, unverified, or None; raises OSError."""
        path = self.folder(release_id) / _MANIFEST_BYTES
        return path.read_bytes() if path.is_file() else None

    def keep_head(self, release_id: bytes, event: Event) -> None:
        """Store the verified head that names a release; raises OSError."""
        self._keep(release_id, _HEAD, [event])

    def manifest(self, release_id: bytes) -> list[Event]:
        """Return the events of a release's manifest, in order, or an empty list; raises StoreError and OSError."""
        return self._read(release_id, _MANIFEST)

    def head(self, release_id: bytes) -> Event | None:
        """Return the head that named a release, if it is stored; raises StoreError and OSError."""
        return next(iter(self._read(release_id, _HEAD)), None)

    def _keep(self, release_id: bytes, name: str, events: Iterable[Event]) -> None:
        path, data = self.folder(release_id) / name, b"".join(event.to_json() + b"\n" for event in events)
        if not path.is_file() or path.read_bytes() != data:  # else nothing to write: the disk may be read-only
            durable.make_directory(path.parent)
            durable.write(path, data)

    def _read(self, release_id: bytes, name: str) -> list[Event]:
        path = self.folder(release_id) / name
        try:
            return [Event.parse(orjson.loads(line)) for line in path.read_bytes().splitlines()]
        except FileNotFoundError:
            return []
        except (orjson.JSONDecodeError, InvalidEvent) as error:
            raise StoreError(f"{path}: damaged ({error})") from None

    def log(self, release_id: bytes) -> SignatureLog:
        """Open the signature log of a release, and create it if need be; raises OSError."""
        return SignatureLog(durable.make_directory(self.folder(release_id)) / _SIGNATURES)

    def signatures(self, release_id: bytes) -> dict[bytes, bytes]:
        """Return the unverified signatures by event id; raises OSError."""
        try:
            data = (self.folder(release_id) / _SIGNATURES).read_bytes()
        except FileNotFoundError:
            return {}
        records = (data[start : start + _RECORD] for start in range(0, len(data) - _RECORD + 1, _RECORD))
        return {record[:_ID]: record[_ID:] for record in records}
