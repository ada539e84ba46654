"""Request scheduler for a download: which server is asked for which range of a blob. No I/O, no clock.

Relays are one more source here: they get single chunks, from the other end. A wanted chunk is unassigned, in flight at
some sources, or received. A source that answered without a chunk is not asked for it again. A misbehaving server is
asked last: only for chunks that no other source has left.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from distribution.manifest import Blob

RANGE_CHUNKS = 182  # 8.4 MB: half a piece of a large file
_MIN_CHUNKS = 22  # 1 MB; smaller ranges cost more round trips than they balance
_SOON = 4  # intervals at the current rate that are not worth duplicate requests


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedChunk:
    """A chunk of a file, and where servers have it."""

    number: int  # in the order of the files
    event_id: bytes
    blob: Blob
    offset: int  # bytes from the start of the blob
    size: int  # bytes

    @property
    def end(self) -> int:
        """End in the blob, not included."""
        return self.offset + self.size


class RangePlan:
    """Assignment of ranges of blobs to servers, and of chunks to relays.

    Args:
        chunks: Wanted chunks, in the order of the files.
        sources: Origins of the servers, and a name for the relays.
        is_missing: Returns whether the chunk of an event is still missing; it may have come from any source.
    """

    def __init__(
        self, chunks: Iterable[WantedChunk], sources: Iterable[str], is_missing: Callable[[bytes], bool]
    ) -> None:
        self._chunks = {chunk.number: chunk for chunk in chunks}
        self._order = iter(self._chunks.values())
        self._first_missing = next(self._order, None)
        self._unassigned = dict.fromkeys(self._chunks)  # numbers, in order
        self._in_flight: dict[int, set[str]] = {}  # number -> sources asked for it now
        self._lacking: dict[str, set[int]] = {source: set() for source in sources}
        self._misbehaving: set[str] = set()
        self._whole: set[str] = set()  # servers without ranges
        self._is_missing = is_missing

    @property
    def complete(self) -> bool:
        """True once every chunk was received."""
        while self._first_missing and not self.wants(self._first_missing):
            self._first_missing = next(self._order, None)
        return self._first_missing is None

    @property
    def remaining(self) -> int:
        """Number of chunks not received yet."""
        return sum(self.wants(self._chunks[number]) for number in self._owed)

    def nearly_done(self, before: int) -> bool:
        """Return whether the rest will arrive within 4 more intervals at the current rate.

        Args:
            before: `remaining` at the start of the last interval.
        """
        remaining = self.remaining
        return _SOON * (before - remaining) >= remaining

    def wants(self, chunk: WantedChunk) -> bool:
        """Return whether a chunk is still missing."""
        return self._is_missing(chunk.event_id)

    def may_need(self, source: str) -> bool:
        """Return whether some missing chunk could still be requested from a source."""
        lacking = self._lacking.get(source)
        if lacking is None:
            return False
        return any(
            number not in lacking and source not in self._in_flight.get(number, ()) and self.wants(self._chunks[number])
            for number in self._owed
        )

    def next_range(self, server: str) -> list[WantedChunk]:
        """Assign the next unassigned chunks of one blob to a server; ranges shrink towards the end."""
        self._forget_received()
        first = next((number for number in self._unassigned if self._may_ask(server, number)), None)
        if first is None:
            return []
        return self._assign(server, self._run(server, first, self._range_size(server)))

    def endgame_range(self, server: str) -> list[WantedChunk]:
        """Assign to a server half of the longest range that another source owes; duplicates end with either answer."""
        self._forget_received()
        owed = [
            number
            for number, sources in sorted(self._in_flight.items())
            if server not in sources and self._may_ask(server, number)
        ]
        runs = self._runs(owed)
        if not runs:
            return []
        longest = max(runs, key=lambda run: (-len(self._in_flight[run[0]]), len(run)))
        size = max(min(_MIN_CHUNKS, len(longest)), -(-len(longest) // 2))
        return self._assign(server, longest[-min(size, RANGE_CHUNKS) :])

    def last_chunks(self, source: str, count: int) -> list[WantedChunk]:
        """Assign the last unassigned chunks to a source that needs no ranges, or else chunks that servers owe."""
        self._forget_received()
        free = (number for number in reversed(self._unassigned) if self._may_ask(source, number))
        numbers = list(islice(free, count))
        if not numbers:
            owed = sorted(self._in_flight, reverse=True)
            numbers = [number for number in owed if source not in self._in_flight[number]][:count]
            numbers = [number for number in numbers if self._may_ask(source, number)]
        return self._assign(source, numbers)

    def between(self, blob: Blob, start: int, end: int) -> list[WantedChunk]:
        """Return the wanted chunks in a range of a blob, received or not, in order."""
        return [
            chunk
            for chunk in self._chunks.values()
            if chunk.blob == blob and start <= chunk.offset and chunk.end <= end
        ]

    def requeue(self, source: str, chunks: Sequence[WantedChunk]) -> None:
        """End a request; its missing chunks that are in flight nowhere else become unassigned."""
        for chunk in chunks:
            sources = self._in_flight.get(chunk.number)
            if sources is None:
                continue
            sources.discard(source)
            if not sources:
                del self._in_flight[chunk.number]
                if self.wants(chunk):
                    self._unassigned[chunk.number] = None
        self._unassigned = dict.fromkeys(sorted(self._unassigned))

    def mark_lacking(self, source: str, chunks: Iterable[WantedChunk]) -> None:
        """Record that a source does not have chunks."""
        if source in self._lacking:
            self._lacking[source].update(chunk.number for chunk in chunks)

    def mark_blob_lacking(self, server: str, blob: Blob) -> None:
        """Record that a server does not have a blob."""
        self.mark_lacking(server, [chunk for chunk in self._chunks.values() if chunk.blob == blob])

    def mark_whole(self, server: str) -> None:
        """Record that a server answers ranges with whole blobs: it gets as much of a blob at once as is missing."""
        self._whole.add(server)

    def report_invalid(self, server: str, chunk: WantedChunk) -> None:
        """Record that a server sent wrong bytes for a chunk."""
        self.mark_lacking(server, [chunk])
        self._misbehaving.add(server)

    def remove(self, source: str) -> None:
        """Stop assigning chunks to a source."""
        self._lacking.pop(source, None)

    def _range_size(self, server: str) -> int:
        if server in self._whole:
            return len(self._chunks)
        share = -(-len(self._unassigned) // max(1, len(self._well_behaved)))
        return min(RANGE_CHUNKS, max(_MIN_CHUNKS, share))

    def _run(self, server: str, first: int, size: int) -> list[int]:
        """Return consecutive unassigned chunks of one blob."""
        run, blob = [first], self._chunks[first].blob
        while len(run) < size:
            following = run[-1] + 1
            if following not in self._unassigned or self._chunks[following].blob != blob:
                break
            if not self._may_ask(server, following):
                break
            run.append(following)
        return run

    def _runs(self, numbers: Sequence[int]) -> list[list[int]]:
        """Group chunks into ranges of one blob that the same sources owe."""
        runs: list[list[int]] = []
        for number in numbers:
            last = runs[-1][-1] if runs else None
            if (
                last == number - 1
                and self._chunks[last].blob == self._chunks[number].blob
                and self._in_flight[last] == self._in_flight[number]
            ):
                runs[-1].append(number)
            else:
                runs.append([number])
        return runs

    def _forget_received(self) -> None:
        """Drop what came meanwhile, from whatever source."""
        for number in [number for number in self._unassigned if not self.wants(self._chunks[number])]:
            del self._unassigned[number]
        for number in [number for number in self._in_flight if not self.wants(self._chunks[number])]:
            del self._in_flight[number]

    @property
    def _owed(self) -> Iterator[int]:
        """Numbers of all missing chunks, and of some that came since."""
        return chain(self._unassigned, self._in_flight)

    @property
    def _well_behaved(self) -> set[str]:
        return self._lacking.keys() - self._misbehaving

    def _may_ask(self, source: str, number: int) -> bool:
        lacking = self._lacking.get(source)
        if lacking is None or number in lacking:
            return False
        return source not in self._misbehaving or all(number in self._lacking[other] for other in self._well_behaved)

    def _assign(self, source: str, numbers: Sequence[int]) -> list[WantedChunk]:
        for number in numbers:
            self._unassigned.pop(number, None)
            self._in_flight.setdefault(number, set()).add(source)
        return [self._chunks[number] for number in numbers]
