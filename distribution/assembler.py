"""Reassembly of files from chunk events: which chunks are missing, and where an event's bytes belong. No I/O."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distribution.chunking import decode_exactly
from distribution.errors import InvalidChunk
from distribution.events import CHUNK_KIND
from distribution.manifest import Chunk, FileEntry
from relay_client.event import HashedEvent, decode_hex, first_tag_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Position of a chunk in a file."""

    file: FileEntry
    offset: int  # bytes from the start of the file


class Assembler:
    """Tracks the missing chunks of some files.

    Equal chunks of one release are one event, so an event may fill several places.

    Args:
        files: The files to assemble.
        chunk_size: Chunk size of their manifest, in bytes.

    Raises:
        InvalidChunk: The manifest gives one event two contents.
    """

    def __init__(self, files: Sequence[FileEntry], chunk_size: int) -> None:
        self._chunks: dict[bytes, Chunk] = {}  # event id -> what it must carry
        self._places: dict[bytes, list[Placement]] = defaultdict(list)  # event id -> missing places
        for file in files:
            for chunk in file.chunks(chunk_size):
                first = self._chunks.setdefault(chunk.event_id, chunk)
                if (first.size, first.sha256) != (chunk.size, chunk.sha256):
                    raise InvalidChunk("the manifest gives one event two contents")
                self._places[chunk.event_id].append(Placement(file=file, offset=chunk.offset))

    @property
    def missing(self) -> list[bytes]:
        """Ids of the events that are missing, in the order of the files."""
        return list(self._places)

    @property
    def missing_hashes(self) -> list[bytes]:
        """SHA-256 of the bytes of those events, each once."""
        return list(dict.fromkeys(self._chunks[event_id].sha256 for event_id in self._places))

    @property
    def missing_places(self) -> int:
        """Number of chunks missing in the files."""
        return sum(map(len, self._places.values()))

    def contiguous_size(self, file: FileEntry) -> int:
        """Return how many bytes from the start of a file are present without a gap."""
        gaps = (place.offset for places in self._places.values() for place in places if place.file is file)
        return min(gaps, default=file.size)

    def mark_present(self, chunk: Chunk, file: FileEntry) -> None:
        """Mark a chunk as present."""
        places = self._places.get(chunk.event_id, [])
        places[:] = [place for place in places if (place.file, place.offset) != (file, chunk.offset)]
        if not places:
            self._places.pop(chunk.event_id, None)

    def offer(self, raw_event: Mapping[str, object]) -> tuple[bytes, list[Placement]]:
        """Verify a chunk event by its id, and mark the places that it fills as present.

        The cheapest check comes first: id wanted, id recomputed, kind, length, base64, SHA-256. The signature is not
        checked, since the verified manifest names the id.

        Returns:
            The bytes and the places they belong to; no places if the event is not wanted, or not any more.

        Raises:
            InvalidEvent: The event is malformed, or its id does not verify.
            InvalidChunk: The content is not the chunk that the manifest names.
        """
        event_id = decode_hex(raw_event.get("id"), 32)
        if event_id not in self._places:
            return b"", []
        return self._read(raw_event, self._chunks[event_id]), self._places.pop(event_id)

    def is_missing(self, event_id: bytes) -> bool:
        """Return whether the chunk of an event is missing somewhere."""
        return event_id in self._places

    def offer_bytes(self, event_id: bytes, data: bytes) -> list[Placement]:
        """Verify bytes from a server as the chunk of an event, and mark the places that they fill as present.

        Returns:
            The places they belong to; none if the chunk is not wanted any more.

        Raises:
            InvalidChunk: They are not the chunk that the manifest names.
        """
        chunk = self._chunks[event_id]
        if len(data) != chunk.size or hashlib.sha256(data).digest() != chunk.sha256:
            raise InvalidChunk("the bytes do not match the size and hash in the manifest")
        return self._places.pop(event_id, [])

    def offer_copy(self, raw_event: Mapping[str, object]) -> tuple[bytes, list[Placement]]:
        """Verify a chunk event by its bytes, as its `x` tag claims them, and mark the places that it fills as present.

        Any author may sign such a copy, since the verified manifest names the hash of the bytes. Returns and raises
        what `offer` does.
        """
        claimed = first_tag_value(raw_event, "x")
        wanted = [event_id for event_id in self._places if self._chunks[event_id].sha256.hex() == claimed]
        if not wanted:
            return b"", []
        data = self._read(raw_event, self._chunks[wanted[0]])
        return data, [place for event_id in wanted for place in self._places.pop(event_id)]

    @staticmethod
    def _read(raw_event: Mapping[str, object], chunk: Chunk) -> bytes:
        event = HashedEvent.parse(raw_event)
        if event.kind != CHUNK_KIND:
            raise InvalidChunk(f"kind {event.kind} is not a chunk ({CHUNK_KIND})")
        return decode_exactly(event.content, size=chunk.size, sha256=chunk.sha256)
