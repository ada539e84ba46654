"""Look at a release on relays before it is fetched. Network I/O through a pool; reads the store, and writes nothing."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distribution.events import Release
from distribution.fetch import Fetcher
from distribution.installed import InstalledRelease
from distribution.manifest import Manifest
from distribution.partial import HeaderRewrite
from distribution.resolve import Reference
from distribution.store import Store
from relay_client.errors import InvalidEvent
from relay_client.event import HashedEvent
from relay_client.event_source import Answer, EventSource
from relay_client.filter import Filter

if TYPE_CHECKING:  # server_copies imports an HTTP client
    from collections.abc import Mapping

    from distribution.server_copies import ServerAvailability


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A verified release that was not fetched, and the relays that returned it."""

    release: Release
    relays: tuple[str, ...]  # URLs
    claimed_name: str = ""  # of the author, in the profile on relays


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlan:
    """What a fetch would download."""

    preview: Preview
    manifest: Manifest  # of the files that would be installed
    missing_bytes: int
    missing_chunks: int  # about, if a fetch was interrupted before
    servers: "Mapping[str, ServerAvailability]" = field(default_factory=dict)  # Blossom servers, by origin

    @property
    def chunks(self) -> int:
        """Number of chunks of the files."""
        return sum(file.chunk_count for file in self.manifest.files)


async def look(fetcher: Fetcher, reference: Reference) -> Preview:
    """Return the release that a reference names, without its files; raises what `Fetcher.find` raises."""
    release = await fetcher.find(reference)
    return Preview(release=release, relays=await _holders(fetcher.pool, release))


async def plan_fetch(fetcher: Fetcher, reference: Reference, weights: HeaderRewrite | None = None) -> FetchPlan:
    """Return what `Fetcher.fetch` with the same arguments would download; raises what it raises."""
    preview = await look(fetcher, reference)
    manifest, servers = await fetcher.plan(preview.release, weights)
    installed, size, chunks = fetcher.store.release(preview.release.id), 0, 0
    if not (installed and (weights or not installed.partial)):
        size, chunks = await asyncio.to_thread(_missing, fetcher.store, preview.release.id, manifest, installed)
    return FetchPlan(preview=preview, manifest=manifest, missing_bytes=size, missing_chunks=chunks, servers=servers)


async def _holders(pool: EventSource, release: Release) -> tuple[str, ...]:
    """Return the relays that return the release, without waiting for slow ones."""

    def holders(answers: list[Answer]) -> list[str]:
        found = []
        for url, raw_event in answers:
            with contextlib.suppress(InvalidEvent):
                if HashedEvent.parse(raw_event).id == release.id:
                    found.append(url)
        return found

    answers = await pool.query_soon(Filter(ids=(release.id,), limit=1), enough=bool, late=[])
    return tuple(dict.fromkeys(holders(answers)))


def _missing(
    store: Store, release_id: bytes, manifest: Manifest, installed: InstalledRelease | None
) -> tuple[int, int]:
    """Return bytes and chunks of a manifest that are not in the store; an interrupted fetch counts by its size."""
    part = installed.file("checkpoint").size if installed and installed.partial else 0
    size = chunks = 0
    for file in manifest.files:
        if not store.has_blob(file.sha256):
            here = max(store.partial_size(release_id, file), part if file.role == "checkpoint" else 0)
            missing = max(0, file.size - here)
            size += missing
            chunks += -(-missing // manifest.chunk_size)
    return size, chunks
