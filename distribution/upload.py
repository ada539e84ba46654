"""Upload of a release's blobs to Blossom servers, and the check that the servers return them. Does network I/O.

A server that refuses, fails, or does not return what it accepted is left out; the others get everything. A blob that a
server has is not sent again, so a rerun completes an interrupted upload.
"""

import asyncio
import contextlib
import functools
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from distribution.chunking import CHUNK_SIZE
from distribution.errors import CallerError
from distribution.manifest import Blob, FileEntry, Manifest
from distribution.source import HashedSource, SourceFile
from relay_client.blossom.authorizer import Authorizer
from relay_client.blossom.client import MAX_UPLOADS, BlossomClient
from relay_client.blossom.response import MISSING
from relay_client.blossom.token import Verb
from relay_client.errors import InvalidResponse, InvalidSigned, PeerError, ServerRefused, SignerRefused, TransportError
from relay_client.event import EventSigner
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

_READ_BYTES = 1 << 20
_READ_RETRIES = 6  # of reading back a blob that the server does not have yet
_READ_WAIT_S = 0.1  # before the first of them; doubles

ReadBlob = Callable[[int, int], bytes]  # offset and number of bytes; may return fewer, on any thread

_random = random.SystemRandom()  # a server must not foresee what is read back


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBlob:
    """A blob to upload."""

    sha256: bytes
    size: int
    read: ReadBlob

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield its bytes; raises CallerError if they are not those that were hashed, and OSError."""
        digest, offset = hashlib.sha256(), 0

        def read() -> bytes:
            block = self.read(offset, min(_READ_BYTES, self.size - offset))
            digest.update(block)
            return block

        while offset < self.size:
            block = await asyncio.to_thread(read)
            offset += len(block)
            if not block or (offset == self.size and digest.digest() != self.sha256):
                raise CallerError("a file changed while it was being published")
            yield block


@dataclass(slots=True, kw_only=True)
class ServerReport:
    """Result at one server so far, in blobs."""

    uploaded: int = 0
    mirrored: int = 0  # the server copied them from another one
    present: int = 0  # the server had them before
    refused: int = 0
    bytes: int = 0  # of the blobs that were uploaded
    reason: str = ""  # why the server was left out; empty while it is in use


def file_blobs(sources: Sequence[SourceFile], hashed: Sequence[HashedSource], blob_size: int | None) -> list[LocalBlob]:
    """Return the blobs of files, each once.

    Args:
        sources: The files.
        hashed: Their hashes, in the same order.
        blob_size: Size of the pieces of large files, in bytes; None: no file is cut.
    """
    blobs: dict[bytes, LocalBlob] = {}
    for source, file in zip(sources, hashed, strict=True):
        offset = 0
        for sha256, size in file.blobs(blob_size or source.size):
            blobs[sha256] = LocalBlob(sha256=sha256, size=size, read=functools.partial(_read, source, offset, size))
            offset += size
    return list(blobs.values())


def manifest_blob(manifest: Manifest) -> LocalBlob:
    """Return the blob of a manifest."""
    encoded = manifest.encode()
    digest = hashlib.sha256(encoded).digest()
    return LocalBlob(sha256=digest, size=len(encoded), read=lambda start, size: encoded[start : start + size])


def _read(source: SourceFile, offset: int, length: int, start: int, size: int) -> bytes:
    return source.read(offset + start, min(size, length - start))


def readable_blobs(
    manifest: Manifest, reader: Callable[[FileEntry, Blob], ReadBlob | None]
) -> tuple[list[LocalBlob], int]:
    """Return the blobs that can be read, each once and the manifest last, and the number of those that cannot.

    Args:
        manifest: Manifest of the release.
        reader: Returns the function that reads a blob; None: it cannot be read.
    """
    blobs: dict[bytes, LocalBlob] = {}
    missing = 0
    for entry in manifest.files:
        for blob in manifest.blobs(entry):
            if read := reader(entry, blob):
                blobs[blob.sha256] = LocalBlob(sha256=blob.sha256, size=blob.size, read=read)
            else:
                missing += 1
    return [*blobs.values(), manifest_blob(manifest)], missing


class Uploader:
    """Uploads the blobs of one release to several servers; an async context manager.

    Args:
        origins: Servers, as `normalize_server` returns them.
        signer: Signs the tokens.
        now: Clock, in seconds since 1970.
        sources: Public servers that may have the blobs; servers are asked to copy from them before a blob is uploaded.
        timeouts: How long to wait for servers.
    """

    def __init__(
        self,
        origins: Sequence[str],
        *,
        signer: EventSigner,
        now: Callable[[], int],
        sources: Sequence[str] = (),
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self._signer = signer
        self._now = now
        self._timeouts = timeouts
        self._reports = {origin: ServerReport() for origin in origins}
        self._sources = {origin: list(sources) for origin in origins}  # that it may still copy from
        self._clients: dict[str, BlossomClient] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for origin in self._reports:
            client = BlossomClient(origin, timeouts=self._timeouts)
            self._clients[origin] = await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def origins(self) -> list[str]:
        """Servers in use."""
        return [origin for origin, report in self._reports.items() if not report.reason]

    @property
    def reports(self) -> Mapping[str, ServerReport]:
        """Result at each server so far."""
        return self._reports

    def failure_summary(self) -> str:
        """Return in one line why servers are not in use; empty if all are."""
        return "; ".join(report.reason for report in self._reports.values() if report.reason)

    async def check(self, *, sha256: bytes, size: int) -> None:
        """Leave out the servers that would not take the largest blob; nothing is signed for that."""

        async def ask(client: BlossomClient) -> None:
            with self._left_out_on_failure(client.origin):
                await client.check_upload(sha256, size)

        await asyncio.gather(*map(ask, self._clients.values()))

    async def upload(self, blobs: Sequence[LocalBlob], on_progress: Callable[[int], None] = lambda _done: None) -> None:
        """Upload to every server the blobs that it lacks, and read a random chunk of each blob back.

        Args:
            blobs: Blobs of the release.
            on_progress: Called with the bytes that a server has by now, on average.

        Raises:
            CallerError: A file changed.
            OSError: A file cannot be read.
            SignerRefused, InvalidSigned: The tokens are not signed.
        """
        origins = self.origins
        if not origins:
            return
        hashes = [blob.sha256 for blob in blobs]
        tokens = Authorizer(self._signer, Verb.UPLOAD, hashes=hashes, origins=origins, now=self._now)
        stored = 0

        async def work(client: BlossomClient, queue: Iterator[LocalBlob]) -> None:
            nonlocal stored
            with self._left_out_on_failure(client.origin):
                for blob in queue:
                    if self._reports[client.origin].reason:
                        return
                    await self._store(client, blob, tokens)
                    await _read_back(client, blob)
                    stored += blob.size
                    on_progress(stored // len(origins))

        try:
            async with asyncio.TaskGroup() as group:
                for origin in origins:
                    queue = iter(blobs)
                    for _ in range(MAX_UPLOADS):
                        group.create_task(work(self._clients[origin], queue))
        except BaseExceptionGroup as failed:  # unwrap what a file raised
            raise failed.exceptions[0] from None

    async def _store(self, client: BlossomClient, blob: LocalBlob, tokens: Authorizer) -> None:
        report = self._reports[client.origin]
        if await _has(client, blob):
            report.present += 1
            return
        if await self._mirrored(client, blob, tokens):
            report.mirrored += 1
            return
        await client.upload(blob.sha256, blob.size, blob.blocks, lambda fresh: tokens.header(blob.sha256, fresh=fresh))
        report.uploaded += 1
        report.bytes += blob.size

    async def _mirrored(self, client: BlossomClient, blob: LocalBlob, tokens: Authorizer) -> bool:
        """Return whether the server copied a blob from another; a source that fails is not tried again."""
        sources = self._sources[client.origin]
        for source in list(sources):
            try:
                await client.mirror(
                    source, blob.sha256, blob.size, lambda fresh: tokens.header(blob.sha256, fresh=fresh)
                )
                await _read_back(client, blob)
            except (SignerRefused, InvalidSigned):
                raise
            except (TransportError, PeerError):
                if source in sources:
                    sources.remove(source)
            else:
                return True
        return False

    @contextlib.contextmanager
    def _left_out_on_failure(self, origin: str) -> Iterator[None]:
        report = self._reports[origin]
        try:
            yield
        except (SignerRefused, InvalidSigned):  # not the server's fault
            raise
        except (TransportError, PeerError) as error:
            report.refused += isinstance(error, ServerRefused)
            report.reason = report.reason or str(error)


async def _has(client: BlossomClient, blob: LocalBlob) -> bool:
    try:
        return await client.has(blob.sha256, blob.size)
    except ServerRefused:  # it does not answer HEAD
        return False


async def _read_back(client: BlossomClient, blob: LocalBlob) -> None:
    """Check that a server returns a random chunk of a blob; raises InvalidResponse and TransportError."""
    size = min(CHUNK_SIZE, blob.size)
    start = _random.randrange(blob.size - size + 1)
    data = await _read_stored(client, blob, start, start + size)
    if data != await asyncio.to_thread(blob.read, start, size):
        raise InvalidResponse(f"{client.origin}: returns other bytes than it was sent")


async def _read_stored(client: BlossomClient, blob: LocalBlob, start: int, end: int) -> bytes:
    """Return a range of a blob that a server accepted; some servers need a moment until it can be read."""
    wait_s = _READ_WAIT_S
    for _ in range(_READ_RETRIES):
        try:
            return await client.read_range(blob.sha256, size=blob.size, start=start, end=end)
        except ServerRefused as error:
            if error.status not in MISSING:
                raise
        await asyncio.sleep(wait_s)
        wait_s *= 2
    raise InvalidResponse(f"{client.origin}: accepted a file and does not return it")
