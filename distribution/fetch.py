"""Fetch use case: id → release → trust → manifest → missing chunks → verified files → install → move the ref.

Everything that a relay sends is unverified until it has passed `Event`, `Release`, `Manifest` or `Assembler`. Does
network I/O through a pool and disk I/O through the store.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from distribution.download import ChunkCounts, Download, OnProgress
from distribution.errors import CallerError, TooLarge
from distribution.events import Release
from distribution.installed import InstalledRelease
from distribution.manifest import Manifest
from distribution.manifest_fetch import FoundManifest, find_manifest
from distribution.partial import HeaderRewrite
from distribution.release_finder import ReleaseFinder
from distribution.resolve import Reference
from distribution.revocation import OnRevoked
from distribution.server_hints import query_servers
from distribution.store import Store
from distribution.trust import TrustPolicy
from relay_client.blossom.address import MAX_HINTED_SERVERS, MAX_SERVERS, usable_servers
from relay_client.event_source import EventSource

if TYPE_CHECKING:  # they import an HTTP client
    from distribution.server_copies import ServerAvailability
    from relay_client.blossom.client import BlossomClient

MAX_SIZE = 1 << 30  # bytes of a release, by default


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Result of a fetch."""

    release: InstalledRelease
    chunks: ChunkCounts
    misbehaving: list[str]  # URLs of relays and servers that sent something that does not verify
    activated: bool  # whether it is the current release now


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Fetches releases from the relays of an open pool into a store.

    Args:
        pool: Open pool of relays to ask, or a file of events.
        store: Store to install into.
        policy: Authors whose releases may be fetched.
        now: Clock, in seconds since 1970.
        max_size: Largest release to fetch, in bytes.
        on_progress: Called with the verified bytes so far and the total.
        on_warning: Called with each head that does not count, in words.
        on_revoked: Called with each release of a name that turns out to be revoked.
        servers: Blossom servers that the user chose, as `normalize_server` returns them.
        follow_servers: Use servers that the head, the release and the author's list name too.

    Raises:
        CallerError: `max_size` is not above 0.
    """

    pool: EventSource
    store: Store
    policy: TrustPolicy
    now: Callable[[], int]
    max_size: int = MAX_SIZE
    on_progress: OnProgress = lambda _done, _total: None
    on_warning: Callable[[str], None] = lambda _text: None
    on_revoked: OnRevoked = lambda _id, _version, _reason: None
    servers: Sequence[str] = ()
    follow_servers: bool = True
    _finder: ReleaseFinder = field(init=False)

    def __post_init__(self) -> None:
        if self.max_size <= 0:
            raise CallerError(f"max_size must be above 0, not {self.max_size}")
        finder = ReleaseFinder(
            pool=self.pool,
            versions=self.store.seen_versions,
            policy=self.policy,
            now=self.now,
            on_warning=self.on_warning,
            on_revoked=self.on_revoked,
        )
        object.__setattr__(self, "_finder", finder)

    async def fetch(
        self,
        reference: Reference,
        *,
        activate: bool = True,
        weights: HeaderRewrite | None = None,
    ) -> Fetched:
        """Fetch, verify and install the release that a reference names.

        After any error the store shows what it showed before, and a rerun continues with the chunks that verified.

        Args:
            reference: Id of a release, or author and name, which stand for the latest version without one.
            activate: Make it the current release.
            weights: Fetch the weights only, and turn the first segment of the checkpoint into a checkpoint of its own
                with this rewrite. A release that is installed completely stays so.

        Raises:
            TooLarge: The release has more than `max_size` bytes.
            PeerError: Something does not verify, is not trusted, or is older than what was seen before.
            TransportError: No relay has all of it.
            StoreError: The store is damaged or full.
            OSError: The disk failed.
        """
        release = await self.find(reference)
        chunks = ChunkCounts()
        async with self.store.lock(release.id):
            if head := self._finder.head(release.id):
                self.store.event_archive.keep_head(release.id, head)
            installed = self.store.release(release.id)
            intact = installed is not None and await asyncio.to_thread(self.store.is_intact, installed)
            if installed and intact and (weights or not installed.partial):
                chunks.reused = sum(file.chunks for file in installed.files)
            else:
                installed = await self._download(release, installed, weights, chunks)
            await self.store.seen_versions.record(release)
            if activate:
                await self.store.use(release.id)
        await self._finder.record_late(release)
        invalid = [origin for origin, counts in chunks.servers.items() if counts.rejected]
        return Fetched(
            release=installed, chunks=chunks, misbehaving=sorted({*self.pool.misbehaving, *invalid}), activated=activate
        )

    async def find(self, reference: Reference) -> Release:
        """Return the verified release that a reference names, if its author and version are acceptable.

        Raises what `fetch` raises.
        """
        return await self._finder.find(reference)

    async def _download(
        self, release: Release, found: InstalledRelease | None, weights: HeaderRewrite | None, chunks: ChunkCounts
    ) -> InstalledRelease:
        async with contextlib.AsyncExitStack() as stack:
            clients = await self._clients(release)
            servers = {client.origin: await stack.enter_async_context(client) for client in clients}
            found_manifest, manifest, weights = await self._select(release, weights, servers.values())
            found_manifest.keep(self.store.event_archive, release)
            whole = found_manifest.manifest
            download = Download(
                pool=self.pool,
                store=self.store,
                release=release,
                manifest=manifest,
                blobs={file.path: list(whole.blobs(file)) for file in whole.files},
                servers=servers,
                rewrite=weights,
                counts=chunks,
                on_progress=self.on_progress,
            )
            return await download.run(found)

    async def servers_for(self, release: Release) -> list[str]:
        """Return the servers that may have a release.

        First the user's, then a few of those that its head names, the release, and the author's list. The list is
        asked for only if the release was published to servers.
        """
        head = self._finder.head(release.id)
        named = [*(head.tag_values("server")[:MAX_SERVERS] if head else ()), *release.servers]
        hinted = usable_servers(named, known=self.servers) if self.follow_servers else []
        if self.follow_servers and named and len(hinted) < MAX_HINTED_SERVERS:
            named += await query_servers(self.pool, release.author)
            hinted = usable_servers(named, known=self.servers)
        return list(dict.fromkeys([*self.servers, *hinted]))

    async def _clients(self, release: Release) -> "list[BlossomClient]":
        origins = await self.servers_for(release)
        if not origins:
            return []
        from relay_client.blossom.client import BlossomClient  # noqa: PLC0415 (relays alone need no HTTP client)

        return [
            BlossomClient(origin, only_public=origin not in self.servers, timeouts=self.pool.timeouts)
            for origin in origins
        ]

    async def plan(
        self, release: Release, weights: HeaderRewrite | None
    ) -> "tuple[Manifest, dict[str, ServerAvailability]]":
        """Return the manifest of the files that `fetch` would install, and what each server has of the release.

        Raises what `fetch` raises.
        """
        async with contextlib.AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(client) for client in await self._clients(release)]
            found, wanted, _ = await self._select(release, weights, servers)
            if not servers:
                return wanted, {}
            from distribution.server_copies import count_blobs  # noqa: PLC0415 (relays alone need no HTTP client)

            counts = await asyncio.gather(*(count_blobs(client, found.manifest) for client in servers))
            return wanted, {client.origin: count for client, count in zip(servers, counts, strict=True)}

    async def _select(
        self, release: Release, weights: HeaderRewrite | None, servers: "Iterable[BlossomClient]"
    ) -> tuple[FoundManifest, Manifest, HeaderRewrite | None]:
        """Return the manifest, that of the wanted files, and the rewrite that these files need."""
        if not weights:
            self._check_size(release.size)
        found = await find_manifest(self.pool, release, servers)
        manifest = found.manifest
        if weights:
            manifest, weights = await asyncio.to_thread(self._weights_of, manifest, weights)
            self._check_size(manifest.size)
        return found, manifest, weights

    def _weights_of(self, manifest: Manifest, rewrite: HeaderRewrite) -> tuple[Manifest, HeaderRewrite | None]:
        """Return the part of a manifest with the weights, or all of it and no rewrite if nothing can be left out."""
        checkpoint = next(file for file in manifest.files if file.role == "checkpoint")
        if len(checkpoint.segments) == 1 or self.store.has_blob(checkpoint.sha256):
            return manifest, None
        weights = checkpoint.first_segment(manifest.chunk_size)
        return replace(manifest, files=(weights, *(file for file in manifest.files if file is not checkpoint))), rewrite

    def _check_size(self, size: int) -> None:
        if size > self.max_size:
            raise TooLarge(f"{size:,} bytes to fetch, above the limit of {self.max_size:,}; raise it with --max-size")
