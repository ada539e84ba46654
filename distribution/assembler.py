"""What is still missing of a release's files, and whether an event that came fills a gap. No I/O."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distribution.chunking import decode_exactly
from distribution.errors import InvalidChunk
from distribution.events import CHUNK_KIND
from distribution.manifest import Chunk, FileEntry
from relay_client.event import HashedEvent, decode_hex, raw_tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where bytes belong."""

    file: FileEntry
    offset: int  # bytes from the start of the file


class Assembler:
    """Keeps account of the chunks of some files.

    Equal chunks of one release are one event, so an event may fill several places.
    """

    def __init__(self, files: Sequence[FileEntry], chunk_size: int) -> None:
        self._chunks: dict[bytes, Chunk] = {}  # event id -> what it must hold
        self._places: dict[bytes, list[Placement]] = defaultdict(list)  # event id -> places still empty
        for file in files:
            for chunk in file.chunks(chunk_size):
                first = self._chunks.setdefault(chunk.event_id, chunk)
                if (first.size, first.sha256) != (chunk.size, chunk.sha256):
                    raise InvalidChunk("the manifest gives one event two contents")
                self._places[chunk.event_id].append(Placement(file=file, offset=chunk.offset))

    @property
    def missing(self) -> list[bytes]:
        """Ids of the events still wanted, in the order of the files."""
        return list(self._places)

    @property
    def missing_hashes(self) -> list[bytes]:
        """What those events must hold: sha256 of the bytes, each once."""
        return list(dict.fromkeys(self._chunks[event_id].sha256 for event_id in self._places))

    @property
    def missing_places(self) -> int:
        """How many chunks of the files are still empty."""
        return sum(map(len, self._places.values()))

    def complete_to(self, file: FileEntry) -> int:
        """How many bytes of a file are in place without a gap, counted from its start."""
        gaps = (place.offset for places in self._places.values() for place in places if place.file is file)
        return min(gaps, default=file.size)

    def have(self, chunk: Chunk, file: FileEntry) -> None:
        """Note that a chunk is in place already."""
        places = self._places.get(chunk.event_id, [])
        places[:] = [place for place in places if (place.file, place.offset) != (file, chunk.offset)]
        if not places:
            self._places.pop(chunk.event_id, None)

    def offer(self, raw_event: Mapping[str, object]) -> tuple[bytes, list[Placement]]:
        """The bytes in an event and the places they fill, which then count as filled; no places: not wanted (any more).

        Cheapest check first: id asked for, id recomputed, kind, length, base64, sha256. The signature is not checked:
        the verified manifest names the id. Raises InvalidEvent or InvalidChunk.
        """
        event_id = decode_hex(raw_event.get("id"), 32)
        if event_id not in self._places:
            return b"", []
        return self._read(raw_event, self._chunks[event_id]), self._places.pop(event_id)

    def offer_copy(self, raw_event: Mapping[str, object]) -> tuple[bytes, list[Placement]]:
        """The same for an event by anyone that carries missing bytes under another id, and says so in its tag `x`.

        The verified manifest names the bytes, so it does not matter who signed them. Raises what `offer` raises.
        """
        claimed = raw_tag(raw_event, "x")
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
