"""Fetch use case: id → release → trust → manifest → missing chunks → verified files → install → move the ref.

Everything that a relay sends is unverified until it has passed `Event`, `Release`, `Manifest` or `Assembler`. Does
network I/O through a pool and disk I/O through the store.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from distribution import trust
from distribution.download import ChunkCounts, Download, OnProgress
from distribution.errors import CallerError, InvalidRelease, NotFound, PeerError, TooLarge, TransportError
from distribution.events import HEAD_KIND, Release
from distribution.heads import check_heads, heads_filter, read_heads
from distribution.installed import InstalledRelease
from distribution.manifest import Manifest, is_name
from distribution.manifest_fetch import FoundManifest, find_manifest, gather_verified
from distribution.partial import HeaderRewrite
from distribution.published import find_version
from distribution.resolve import Reference, VersionReference
from distribution.revocation import OnRevoked, query_revoked, read_revoked
from distribution.server_hints import query_servers, query_write_relays
from distribution.store import Store
from distribution.trust import TrustPolicy
from relay_client.blossom.address import MAX_HINTED_SERVERS, MAX_SERVERS, usable_servers
from relay_client.errors import quote
from relay_client.event import Event
from relay_client.event_source import Answer, EventSource
from relay_client.nip19 import AddressReference, EventReference, encode_npub

if TYPE_CHECKING:  # they import an HTTP client
    from distribution.server_copies import ServerAvailability
    from relay_client.blossom.client import BlossomClient

MAX_SIZE = 1 << 30  # bytes of a release, by default


def check_address(address: AddressReference) -> None:
    """Raise CallerError unless the address can be the name of a model."""
    if address.kind not in {None, HEAD_KIND}:
        raise CallerError(f"this naddr names an event of kind {address.kind}, not a model ({HEAD_KIND})")
    if not is_name(address.name):
        raise CallerError(
            f"not the name of a model: {quote(address.name)} (a-z, 0-9, dot, dash, underscore; at most 64)"
        )


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
    _late: list[Answer] = field(default_factory=list, init=False)  # arrived when the latest version was decided
    _heads: dict[bytes, Event] = field(default_factory=dict, init=False)  # by id of the release that they name

    def __post_init__(self) -> None:
        if self.max_size <= 0:
            raise CallerError(f"max_size must be above 0, not {self.max_size}")

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
            if head := self._heads.get(release.id):
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
        await self._record_late(release)
        invalid = [origin for origin, counts in chunks.servers.items() if counts.rejected]
        return Fetched(
            release=installed, chunks=chunks, misbehaving=sorted({*self.pool.misbehaving, *invalid}), activated=activate
        )

    async def find(self, reference: Reference) -> Release:
        """Return the verified release that a reference names, if its author and version are acceptable.

        Raises what `fetch` raises.
        """
        self.pool.add_hints(reference.relays)
        if isinstance(reference, EventReference):
            release = await self._by_id(reference.id)
        elif isinstance(reference, AddressReference):
            release = await self._by_address(reference)
        else:
            release = await self._by_version(reference)
        self.policy.check(release.author)
        seen = self.store.seen_versions.seen(release.author, release.name)
        trust.check_version(release, seen, asked_by_id=not isinstance(reference, AddressReference))
        return release

    async def _by_version(self, reference: VersionReference) -> Release:
        """Return one version of a name: the one that was seen before, else the one that the relays have."""
        author, name, version = reference.author, reference.name, reference.version
        check_address(AddressReference(author=author, name=name))
        self.policy.check(author)
        seen = self.store.seen_versions.seen(author, name).versions.get(version)
        if seen:
            return await self._by_id(seen.release_id)
        await self.pool.connect_hints()
        return await find_version(self.pool, author, name, version, now=self.now())

    async def _by_address(self, reference: AddressReference) -> Release:
        """Return the release that the author's latest head names; a head without a valid release does not count."""
        check_address(reference)
        self.policy.check(reference.author)
        who = f"{reference.name!r} by {encode_npub(reference.author)}"
        answers = await self._query_heads(reference)
        found, errors = read_heads(answers, reference.author, reference.name, now=self.now())
        own, signed = [each.head for each in found], {each.event.id: each.event for each in found}
        versions = self.store.seen_versions
        revoked = await query_revoked(
            self.pool, versions, reference, own, now=self.now(), late=self._late, on_revoked=self.on_revoked
        )
        left = [head for head in own if head.release_id not in revoked]
        checked = await check_heads(self.pool, left, now=self.now())
        latest = trust.latest([head for head in left if head.id in checked.releases])
        if latest is None:
            if checked.refused:
                raise next(iter(checked.refused.values()))
            if errors:
                raise InvalidRelease(f"{self.pool.lacking} a valid head of {who}: {errors[0]}")
            if own:
                raise NotFound(f"the author revoked every version of {who} that the relays have")
            raise NotFound(f"{self.pool.lacking} a model {who}{self._failures()}")
        for head in left:
            if error := checked.refused.get(head.id):
                self.on_warning(f"ignored version {head.version} of {head.name}, announced without a release: {error}")
        release = checked.releases[latest.id]
        self._heads[release.id] = signed[latest.id]
        return release

    async def _query_heads(self, address: AddressReference) -> list[Answer]:
        """Query the relays for heads; late answers are kept.

        If none has a head, relays that were hinted at are asked, then those that the author writes to (NIP-65).
        """
        wanted, has_hints = heads_filter(address.author, address.name), self.pool.has_hints

        def has_head(answers: Sequence[Answer]) -> bool:
            return bool(read_heads(answers, address.author, address.name, now=self.now())[0])

        answers = await self.pool.query_soon(wanted, enough=lambda found: has_hints or has_head(found), late=self._late)
        if has_hints and not has_head(answers):
            await self.pool.connect_hints()
            answers += await self.pool.query_soon(wanted, enough=has_head, late=self._late)
        if not has_head(answers):
            self.pool.add_hints(await query_write_relays(self.pool, address.author))
            if await self.pool.connect_hints():
                answers += await self.pool.query_soon(wanted, enough=has_head, late=self._late)
        return answers

    async def _record_late(self, release: Release) -> None:
        """Record newer versions and revocations that arrived late, so that they count the next time."""
        author, name, versions = release.author, release.name, self.store.seen_versions
        found, _ = read_heads(self._late, author, name, now=self.now())
        heads = [each.head for each in found if each.head.version > release.version]
        seen = versions.seen(author, name)
        known = {release.id, *(head.release_id for head in heads), *(one.release_id for one in seen.versions.values())}
        revoked = read_revoked(self._late, dict.fromkeys(known, (author,)), now=self.now()).keys()
        await versions.revoke(author, name, revoked)
        with contextlib.suppress(PeerError, TransportError, TimeoutError):
            left = [head for head in heads if head.release_id not in seen.revoked | revoked]
            async with asyncio.timeout(self.pool.timeouts.settle_s):
                checked = await check_heads(self.pool, left, now=self.now())
            for newer in checked.releases.values():
                await versions.record(newer)

    async def _by_id(self, release_id: bytes) -> Release:
        event = (await gather_verified(self.pool, [release_id], "release"))[release_id]
        return Release.parse(event, now=self.now())

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
        head = self._heads.get(release.id)
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

    def _failures(self) -> str:
        reasons = self.pool.failure_summary()
        return f" ({reasons})" if reasons else ""
