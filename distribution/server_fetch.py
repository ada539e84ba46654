"""Download of chunks from Blossom servers and relays at once, shared out by speed. Does network I/O.

Each server has two ranges in flight, so it never waits for us between them, and gets its next one when one is done:
faster servers carry more. Relays join when the servers need longer than a few seconds. Once nothing is unassigned, an
idle source takes over half of what a slow one owes (endgame). A range that lies, breaks off or stalls costs only
itself: every chunk is verified before it is written.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distribution.errors import InvalidManifest
from distribution.range_plan import RangePlan, WantedChunk
from relay_client.blossom.response import MISSING
from relay_client.errors import PeerError, ServerRefused, TransportError
from relay_client.timeouts import Timeouts

if TYPE_CHECKING:  # it imports an HTTP client
    from relay_client.blossom.client import BlossomClient

REQUESTS_PER_SERVER = 2  # with one, a server idles for a round trip between ranges
RELAYS = "relays"  # the name of all relays as one source

_MAX_FAILURES = 3  # of a server in a row, without a chunk in between
_LACKING = MISSING | {416}  # statuses of a server without the blob, or with a shorter one
_BLOCK = 1 << 20

# Gets a server, a chunk and its bytes; verifies and writes them, and returns whether they are right.
AcceptChunk = Callable[[str, WantedChunk, bytes], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySource:
    """Relays as a source of chunks. `gather` asks them for events by id, and returns once they answered."""

    gather: Callable[[Sequence[bytes]], Awaitable[object]]
    chunks_per_request: int


class ServerFetch:
    """Download of wanted chunks from several servers, and from relays if they have any.

    Args:
        clients: Servers, by origin.
        chunks: Wanted chunks, in the order of the files.
        is_missing: Returns whether the chunk of an event is still missing.
        accept: Verifies and writes a chunk.
        relays: Relays that may have the chunks too.
        timeouts: How long to wait for slow sources.
    """

    def __init__(
        self,
        clients: "Mapping[str, BlossomClient]",
        chunks: Iterable[WantedChunk],
        *,
        is_missing: Callable[[bytes], bool],
        accept: AcceptChunk,
        relays: RelaySource,
        timeouts: Timeouts,
    ) -> None:
        self.failures: dict[str, str] = {}  # server -> why it was given up
        self._clients = clients
        self._plan = RangePlan(chunks, [*clients, RELAYS], is_missing)
        self._accept = accept
        self._relays = relays
        self._timeouts = timeouts
        self._wrong: list[tuple[str, WantedChunk]] = []  # server and chunk that did not verify
        self._changed = asyncio.Event()  # set, and replaced, when the plan has something new for an idle source

    async def run(self) -> None:
        """Download until every chunk arrived or every source was asked.

        Raises:
            Exception: Whatever `accept` raises.
        """
        servers = [
            asyncio.create_task(self._serve(client), name=f"fetch from {client.origin}")
            for _ in range(REQUESTS_PER_SERVER)
            for client in self._clients.values()
        ]
        tasks = [*servers, asyncio.create_task(self._gather(servers), name="fetch from relays")]
        pending = set(tasks)
        try:
            while pending and not self._plan.complete:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def check_manifest(self) -> None:
        """Blame the manifest rather than servers for a chunk that never verified, if its blob does.

        Raises:
            InvalidManifest: A whole blob hashes to its name, and a chunk in it does not match.
        """
        for origin, chunk in self._wrong:
            if not self._plan.wants(chunk):
                continue
            if await self._blob_verifies(self._clients[origin], chunk):
                raise InvalidManifest("a blob matches the manifest, and a chunk in it does not")

    async def _blob_verifies(self, client: "BlossomClient", chunk: WantedChunk) -> bool:
        blob, digest = chunk.blob, hashlib.sha256()
        with contextlib.suppress(TransportError, PeerError):
            async with client.open_blob(blob.sha256, size=blob.size, start=0, end=blob.size) as stream:
                while stream.offset < blob.size:
                    digest.update(await stream.read(min(_BLOCK, blob.size - stream.offset)))
        return digest.digest() == blob.sha256

    async def _serve(self, client: "BlossomClient") -> None:
        """Send one request after the other until this server has nothing to add, or is given up."""
        failures = 0
        while client.origin not in self.failures and (chunks := await self._next_range(client.origin)):
            before = self._missing(chunks)
            try:
                await self._fetch(client, chunks)
                failures = 0
            except ServerRefused as error:
                if error.status not in _LACKING:
                    self._give_up(client.origin, error)
                    return
                self._plan.mark_blob_lacking(client.origin, chunks[0].blob)
            except PeerError as error:
                self._give_up(client.origin, error)
                return
            except TransportError as error:
                failures = 0 if self._missing(chunks) < before else failures + 1
                if failures == _MAX_FAILURES:
                    self._give_up(client.origin, error)
                    return
                await asyncio.sleep(failures * self._timeouts.retry_first_s)
            finally:
                self._plan.requeue(client.origin, chunks)
                self._notify()

    async def _next_range(self, origin: str) -> list[WantedChunk]:
        while self._plan.may_need(origin):
            if chunks := self._plan.next_range(origin):
                return chunks
            before = self._plan.remaining
            if await self._wait(self._timeouts.endgame_s):
                continue
            if not self._plan.nearly_done(before) and (chunks := self._plan.endgame_range(origin)):
                return chunks
        return []

    async def _fetch(self, client: "BlossomClient", chunks: Sequence[WantedChunk]) -> None:
        """Request one range, and verify and write its chunks as they come; a wrong chunk ends the request."""
        blob, start, end = chunks[0].blob, chunks[0].offset, chunks[-1].end
        async with client.open_blob(blob.sha256, size=blob.size, start=start, end=end) as stream:
            if stream.offset < start:  # the whole blob comes: take what is missing on the way
                self._plan.mark_whole(client.origin)
                chunks = self._plan.between(blob, stream.offset, end)
            left = len(chunks)
            for number, chunk in enumerate(chunks):
                while left > number and not self._plan.wants(chunks[left - 1]):  # another source was quicker
                    left -= 1
                if left == number:
                    return
                await stream.skip(chunk.offset - stream.offset)
                data = await stream.read(chunk.size)
                if self._plan.wants(chunk) and not self._accept(client.origin, chunk, data):
                    self._plan.report_invalid(client.origin, chunk)
                    self._wrong.append((client.origin, chunk))
                    return

    async def _gather(self, servers: Sequence[asyncio.Task[None]]) -> None:
        """Ask the relays too, if the servers do not finish soon."""
        while not self._wrong:
            before = self._plan.remaining
            await asyncio.wait(servers, timeout=self._timeouts.settle_s, return_when=asyncio.FIRST_COMPLETED)
            if any(task.done() for task in servers) or not self._plan.nearly_done(before):
                break
        while self._plan.may_need(RELAYS):
            chunks = self._plan.last_chunks(RELAYS, self._relays.chunks_per_request)
            if not chunks:
                await self._wait(self._timeouts.endgame_s)
                continue
            before = self._missing(chunks)
            try:
                await self._relays.gather(list(dict.fromkeys(chunk.event_id for chunk in chunks)))
            finally:
                self._plan.mark_lacking(RELAYS, filter(self._plan.wants, chunks))
                self._plan.requeue(RELAYS, chunks)
                self._notify()
            if self._missing(chunks) == before:  # they do not have this release
                self._plan.remove(RELAYS)
                self._notify()
                return

    def _missing(self, chunks: Sequence[WantedChunk]) -> int:
        return sum(map(self._plan.wants, chunks))

    def _give_up(self, origin: str, error: Exception) -> None:
        self.failures.setdefault(origin, str(error))
        self._plan.remove(origin)

    async def _wait(self, seconds: float) -> bool:
        """Wait until the plan changes, and return whether it did in this time."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
