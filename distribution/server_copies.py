"""Blobs of an installed release on Blossom servers: which of them servers have, and uploading them again.

Does network I/O, and reads the store.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from distribution.errors import StoreError
from distribution.installed import InstalledFile, InstalledRelease
from distribution.manifest import Blob, FileEntry, Manifest
from distribution.upload import LocalBlob, ReadBlob, ServerReport, Uploader, readable_blobs
from relay_client.blossom.address import usable_servers
from relay_client.blossom.client import BlossomClient
from relay_client.errors import InvalidResponse, PeerError, TransportError
from relay_client.event import EventSigner
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

_random = random.SystemRandom()  # a server must not foresee what is checked


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAvailability:
    """How much of a release a server has."""

    held: int  # blobs that it says it has
    total: int
    reason: str = ""  # why it was not asked further, or sent a chunk that does not verify

    @property
    def is_complete(self) -> bool:
        """True if the server has every blob, as far as it was checked."""
        return self.held == self.total and not self.reason


async def check_servers(
    manifest: Manifest, *, chosen: Sequence[str], named: Sequence[str], timeouts: Timeouts = DEFAULT_TIMEOUTS
) -> dict[str, ServerAvailability]:
    """Ask servers which blobs of a release they have, and verify a random chunk of those.

    Args:
        manifest: Manifest of the release.
        chosen: Servers that the user chose, as `normalize_server` returns them.
        named: Servers that the release names, untrusted.
        timeouts: How long to wait for servers.
    """
    hinted = usable_servers(named, known=chosen)

    async def check(origin: str) -> ServerAvailability:
        async with BlossomClient(origin, only_public=origin in hinted, timeouts=timeouts) as client:
            return await count_blobs(client, manifest, verify=True)

    origins = list(dict.fromkeys([*chosen, *hinted]))
    return dict(zip(origins, await asyncio.gather(*map(check, origins)), strict=True))


async def count_blobs(client: BlossomClient, manifest: Manifest, *, verify: bool = False) -> ServerAvailability:
    """Ask a server which blobs of a release it has; `verify`: also verify a random chunk of those."""
    encoded = manifest.encode()
    blobs = [(entry, blob) for entry in manifest.files for blob in manifest.blobs(entry)]
    total, held, found = len(blobs) + 1, 0, list[tuple[FileEntry, Blob]]()
    try:
        for entry, blob in blobs:
            if await client.has(blob.sha256, blob.size):
                held += 1
                found.append((entry, blob))
        held += await client.has(hashlib.sha256(encoded).digest(), len(encoded))
        if found and verify:
            await _check_chunk(client, manifest, *_random.choice(found))
    except (TransportError, PeerError) as error:
        return ServerAvailability(held=held, total=total, reason=str(error))
    return ServerAvailability(held=held, total=total)


async def _check_chunk(client: BlossomClient, manifest: Manifest, entry: FileEntry, blob: Blob) -> None:
    """Read a random chunk of a blob; raises InvalidResponse if it does not verify."""
    chunk = _random.choice([one for one in entry.chunks(manifest.chunk_size) if blob.offset <= one.offset < blob.end])
    start = chunk.offset - blob.offset
    data = await client.read_range(blob.sha256, size=blob.size, start=start, end=start + chunk.size)
    if hashlib.sha256(data).digest() != chunk.sha256:
        raise InvalidResponse(f"{client.origin}: sends bytes that do not match the release")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """Result of uploading an installed release."""

    servers: Mapping[str, ServerReport]
    missing: int  # blobs that are not installed, as with the weights only


async def upload_installed(
    installed: InstalledRelease,
    manifest: Manifest,
    origins: Sequence[str],
    *,
    signer: EventSigner,
    now: Callable[[], int],
    named: Sequence[str] = (),
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> Uploaded:
    """Upload to servers the blobs of an installed release that they lack, under any key.

    Args:
        installed: The release.
        manifest: Its manifest, as the author published it.
        origins: Servers, as `normalize_server` returns them.
        signer: Signs as the one who uploads.
        now: Clock, in seconds since 1970.
        named: Servers that the release names; the others are asked to copy from the public ones, which saves an upload.
        on_progress: Called with the bytes that a server has by now, on average, and the total.
        timeouts: How long to wait for servers.

    Raises:
        StoreError: A file is damaged.
        OSError: A file cannot be read.
    """
    blobs, missing = _installed_blobs(installed, manifest)
    total = sum(blob.size for blob in blobs)
    sources = usable_servers(named, known=origins)
    async with Uploader(origins, signer=signer, now=now, sources=sources, timeouts=timeouts) as uploader:
        largest = max(blobs, key=lambda blob: blob.size)
        await uploader.check(sha256=largest.sha256, size=largest.size)
        await uploader.upload(blobs, lambda done: on_progress(done, total))
        return Uploaded(servers=uploader.reports, missing=missing)


def _installed_blobs(installed: InstalledRelease, manifest: Manifest) -> tuple[list[LocalBlob], int]:
    """Return the blobs that are installed, the manifest last, and the number of those that are not."""
    local = {file.path: file for file in installed.files}

    def reader(entry: FileEntry, blob: Blob) -> ReadBlob | None:
        file = local.get(entry.path)
        return None if file is None or blob.end > file.size else _reader(file, blob)

    return readable_blobs(manifest, reader)


def _reader(file: InstalledFile, blob: Blob) -> ReadBlob:
    """Return a function that reads a blob's bytes as the author published them."""

    def read(start: int, size: int) -> bytes:
        offset = blob.offset + start
        with file.local_path.open("rb") as opened:
            opened.seek(offset)
            data = opened.read(min(size, blob.size - start))
        head = file.original.start[offset : offset + len(data)] if file.original else b""
        if not data:
            raise StoreError(f"{file.local_path}: damaged; fetch the release again")
        return head + data[len(head) :]

    return read
