"""Files of events, one JSON object a line (JSONL), as relays and other nostr tools import and export them.

A file is read from start to end for each question, and no more of it is in memory than one line and what was asked for.
Its lines are as unverified as what a relay sends. Does disk I/O.
"""

import asyncio
import heapq
import math
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import orjson

from distribution.errors import CallerError, InvalidRelease, NotFound, NotTrusted, TooLarge
from distribution.events import CHUNK_KIND, HEAD_KIND, RELEASE_KIND, Head, Release
from distribution.revocation import REVOCATION_KIND
from distribution.trust import TrustPolicy
from relay_client.errors import InvalidEvent
from relay_client.event import Event, claimed_id
from relay_client.event_source import Answer
from relay_client.filter import Filter
from relay_client.gather import BY_ID, AcceptEvent, KeyLookup
from relay_client.nip19 import AddressReference, EventReference, encode_npub
from relay_client.relay_status import RelayReport, RelayStatus
from relay_client.timeouts import DEFAULT_TIMEOUTS

STANDARD_STREAM = Path("-")
_MAX_LINE = 1 << 18  # bytes; our events have at most 65,536
_KINDS = frozenset({CHUNK_KIND, RELEASE_KIND, HEAD_KIND, REVOCATION_KIND})
_LINES_PER_TURN = 64  # between two turns of the event loop
_MOST_MODELS = 8  # that an error names
_SPOOL_FACTOR = 4  # bytes of events to bytes of files: base64, and optimizer state that is not wanted


class EventFile:
    """Events of an open, seekable file: an `EventSource` that asks no relay."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.timeouts = DEFAULT_TIMEOUTS
        self.misbehaving: set[str] = set()
        self.name = name
        self._file = file
        self._junk: dict[int, str] = {}  # first line that is no event -> what is wrong with it

    @property
    def urls(self) -> list[str]:
        """Name of the file."""
        return [self.name]

    @property
    def reports(self) -> Mapping[str, RelayReport]:
        """The file, in use."""
        return {self.name: RelayReport(status=RelayStatus.CONNECTED)}

    @property
    def has_hints(self) -> bool:
        """False: relays are not asked."""
        return False

    @property
    def owes_answers(self) -> bool:
        """False: the file is complete."""
        return False

    @property
    def lacking(self) -> str:
        """Beginning of an error about something that is missing."""
        return f"{self.name} lacks"

    @property
    def advice(self) -> str:
        """What to do about something that is missing."""
        return "fetch it from another copy, which continues from here"

    def failure_summary(self) -> str:
        """Return which line is the first that is no event; empty if all are."""
        return "".join(f"line {number} is no event: {fault}" for number, fault in self._junk.items())

    def add_hints(self, raw_urls: Iterable[str]) -> None:
        """Do nothing: relays are not asked."""

    async def connect_hints(self) -> list[str]:
        """Return no relays."""
        return []

    async def query(self, wanted: Filter | Mapping[str, Filter]) -> list[Answer]:
        """Return the newest events that match a filter and are signed; if none is, one that is not."""
        if isinstance(wanted, Mapping):
            wanted = wanted[self.name]
        newest: list[tuple[int, bytes, Mapping[str, object]]] = []  # a heap, the oldest first
        invalid: Mapping[str, object] | None = None
        async for raw_event in self._events():
            if not _matches(wanted, raw_event):
                continue
            try:
                event = Event.parse(raw_event)
            except InvalidEvent:
                invalid = invalid or raw_event
                continue
            if all(event.id != known for _, known, _ in newest):
                heapq.heappush(newest, (event.created_at, event.id, raw_event))
            if len(newest) > wanted.limit:
                heapq.heappop(newest)
        found = [raw_event for _, _, raw_event in sorted(newest, reverse=True)]
        if invalid is not None and not found:
            found = [invalid]
        return [(self.name, raw_event) for raw_event in found]

    async def query_soon(
        self,
        wanted: Filter,
        *,
        enough: Callable[[Sequence[Answer]], bool],  # noqa: ARG002 (a file is never slow)
        late: list[Answer],  # noqa: ARG002
        may_fail: bool = False,  # noqa: ARG002
    ) -> list[Answer]:
        """Return what `query` returns."""
        return await self.query(wanted)

    async def gather(
        self,
        keys: Iterable[bytes],
        accept: AcceptEvent,
        lookup: KeyLookup = BY_ID,
        *,
        patient: bool = True,  # noqa: ARG002
    ) -> list[bytes]:
        """Offer each event with a wanted key to `accept`, in the order of the file; return the keys that are left."""
        missing = dict.fromkeys(key.hex() for key in keys)
        async for raw_event in self._events():
            key = lookup.key(raw_event)
            if key not in missing:
                continue
            if accept(self.name, raw_event):
                del missing[key]
                if not missing:
                    break
            elif lookup.relay_can_verify:
                self.misbehaving.add(self.name)
        return [bytes.fromhex(key) for key in missing]

    async def find_model(self, policy: TrustPolicy, *, name: str | None, now: int) -> AddressReference | EventReference:
        """Return the only model in the file by an author that may be fetched.

        Args:
            policy: Authors whose releases may be fetched.
            name: Name that it must have, if any.
            now: Seconds since 1970.

        Raises:
            NotFound: The file has no such model.
            InvalidRelease: No line of the file is an event of a model, and one is no event.
            NotTrusted: It has models of other authors only.
            CallerError: It has several.
        """
        found, has_other = _Models(), False
        async for raw_event in self._events():
            model = _read_model(raw_event, now)
            if model is None:
                continue
            if name not in {None, model.name}:
                has_other = True
                continue
            try:
                policy.check(model.author)
            except NotTrusted as error:
                found.refused = error
            else:
                found.add(model)
                if found.are_many:
                    break
        if reference := found.only(self.name):
            return reference
        if found.refused:
            raise found.refused
        if self._junk and not has_other:
            raise InvalidRelease(f"{self.name} has no model; {self.failure_summary()}")
        raise NotFound(f"{self.name} has no model{f' called {name}' if name else ''}")

    async def _events(self) -> AsyncIterator[Mapping[str, object]]:
        """Yield the lines that can be events of a release, unverified; raises OSError."""
        self._file.seek(0)
        for number, line in enumerate(_lines(self._file), 1):
            if number % _LINES_PER_TURN == 0:
                await asyncio.sleep(0)
            try:
                raw_event = orjson.loads(line) if len(line) <= _MAX_LINE else None
            except orjson.JSONDecodeError:
                raw_event = None
            if not isinstance(raw_event, dict) or not isinstance(raw_event.get("kind"), int):
                if line.strip() and not self._junk:
                    self._junk[number] = f"above {_MAX_LINE:,} bytes" if len(line) > _MAX_LINE else "not a JSON object"
            elif raw_event["kind"] in _KINDS:
                yield raw_event


@dataclass(slots=True)
class _Models:
    """Models that were found in a file."""

    names: dict[tuple[bytes, str], None] = field(default_factory=dict)  # author and name of each head
    releases: dict[bytes, None] = field(default_factory=dict)  # ids
    refused: NotTrusted | None = None

    @property
    def are_many(self) -> bool:
        """True if more were found than an error names."""
        return max(len(self.names), len(self.releases)) > _MOST_MODELS

    def add(self, model: Head | Release) -> None:
        """Add what an event names."""
        if isinstance(model, Head):
            self.names[model.author, model.name] = None
        else:
            self.releases[model.id] = None

    def only(self, file: str) -> AddressReference | EventReference | None:
        """Return the only model, else the only release, None if there is neither; raises CallerError for several."""
        spelled = [f"{encode_npub(author)}/{name}" for author, name in self.names]
        spelled = spelled or [release_id.hex() for release_id in self.releases]
        if len(spelled) > 1:
            raise CallerError(f"{file} has several models, name one: {', '.join(spelled[:_MOST_MODELS])}")
        for author, name in self.names:
            return AddressReference(author=author, name=name)
        return next((EventReference(id=release_id) for release_id in self.releases), None)


@contextmanager
def open_event_file(path: Path, *, folder: Path, max_size: int) -> Iterator[EventFile]:
    """Open a file of events, or standard input for `-`; what cannot be read twice is copied to disk first.

    Args:
        path: File, pipe, or `-`.
        folder: Where to copy a pipe's events to; removed at the end.
        max_size: Largest release to fetch, in bytes: a pipe may carry four times as much.

    Raises:
        TooLarge: A pipe carries more.
        OSError: The file cannot be read, or the disk is full.
    """
    name = "standard input" if path == STANDARD_STREAM else str(path)
    with ExitStack() as stack:
        file: BinaryIO = sys.stdin.buffer if path == STANDARD_STREAM else stack.enter_context(path.open("rb"))
        if path == STANDARD_STREAM or not stat.S_ISREG(path.stat().st_mode):
            spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            _copy(file, spool, limit=_SPOOL_FACTOR * max_size)
            file = spool
        yield EventFile(file, name)


def _copy(source: BinaryIO, target: BinaryIO, *, limit: int) -> None:
    copied = 0
    for line in _lines(source):
        copied += len(line)
        if copied > limit:
            raise TooLarge(f"more than {limit:,} bytes of events to read; raise the limit with --max-size")
        target.write(line)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; of one that is too long, only a beginning that is longer than allowed."""
    while line := file.readline(_MAX_LINE + 1):
        rest = line
        while len(rest) > _MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(_MAX_LINE + 1)
        yield line


def _matches(wanted: Filter, raw_event: Mapping[str, object]) -> bool:
    """Return whether an unverified event claims to match a filter."""
    tags = raw_event.get("tags")
    claimed = [tag for tag in tags if isinstance(tag, list)] if isinstance(tags, list) else []
    return (
        (not wanted.ids or claimed_id(raw_event) in {value.hex() for value in wanted.ids})
        and (not wanted.authors or raw_event.get("pubkey") in [value.hex() for value in wanted.authors])
        and (wanted.since or 0) <= _time(raw_event) <= (math.inf if wanted.until is None else wanted.until)
        and (not wanted.kinds or raw_event.get("kind") in wanted.kinds)
        and all(
            any(tag[:1] == [name] and tag[1:2] and tag[1] in values for tag in claimed)
            for name, values in wanted.tags.items()
        )
    )


def _time(raw_event: Mapping[str, object]) -> float:
    """Return the date that an unverified event claims, in seconds since 1970."""
    created_at = raw_event.get("created_at")
    return created_at if isinstance(created_at, int) else math.inf


def _read_model(raw_event: Mapping[str, object], now: int) -> Head | Release | None:
    """Return the head or the release in an event, None if it is neither, or does not verify."""
    if raw_event["kind"] not in {HEAD_KIND, RELEASE_KIND}:
        return None
    try:
        event = Event.parse(raw_event)
        return Head.parse(event, now=now) if event.kind == HEAD_KIND else Release.parse(event, now=now)
    except (InvalidEvent, InvalidRelease):
        return None
