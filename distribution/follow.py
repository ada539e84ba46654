"""Follow use case: install each new version of a name once, despite reordered, repeated and missed events.

A live subscription only signals that a new version may exist. `catch_up` then queries all relays and decides by what
this machine has seen before. Does network I/O, and disk I/O through the store.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from distribution.errors import CallerError, InvalidRelease, RandyGPTError
from distribution.events import HEAD_KIND, Head, Release
from distribution.fetch import Fetcher
from distribution.installed import InstalledRelease
from distribution.release_finder import check_address
from distribution.revocation import REVOCATION_KIND, Revocation
from distribution.state_file import StateFile
from distribution.store import Store
from relay_client.backoff import Backoff
from relay_client.errors import InvalidEvent
from relay_client.event import Event, Signer
from relay_client.filter import Filter
from relay_client.nip19 import AddressReference, EventReference
from relay_client.pool import Pool
from relay_client.subscription import Subscription, SubscriptionStatus
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

K = TypeVar("K")
V = TypeVar("V")

RECHECK_S = 600.0  # in case a subscription died silently
_STORED = 100  # stored events of the author to ask for; they only trigger a query
_KNOWN = 10_000  # verified events to remember, so that repeats are not verified again


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A release was installed and made current."""

    release: InstalledRelease


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A new release exists and was not installed."""

    release: Release
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Something was refused or failed; it is tried again later."""

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRevoked:
    """The author revoked a version that this machine has seen."""

    release_id: bytes
    name: str
    version: int
    reason: str  # as the author gives it; may be empty


Update = Installed | Skipped | Failed | VersionRevoked


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowStatus:
    """Status of a follower."""

    version: int  # highest version seen, 0 before the first
    links: Mapping[str, SubscriptionStatus]  # by URL


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowTarget:
    """A name to follow, and the relays to follow it on.

    Raises:
        CallerError: The address cannot be the name of a model, or no relay is given.
    """

    address: AddressReference
    urls: Sequence[str]
    notify_only: bool = False  # report new versions, install nothing
    signer: Signer | None = None  # for relays that require authentication (NIP-42)
    timeouts: Timeouts = DEFAULT_TIMEOUTS

    def __post_init__(self) -> None:
        check_address(self.address)
        if not self.urls:
            raise CallerError("no relay to follow on")


class Follower:
    """Follows one name of one author.

    Args:
        target: What to follow, and where.
        store: Store to install into.
        fetcher: Returns the fetcher for an open pool.
        now: Clock, in seconds since 1970.
        status_file: File that shows the status to other processes.
        on_update: Called with each `Installed`, `Skipped` or `Failed` that does not repeat the last one.
        on_status: Called when the version or a subscription changed.
    """

    def __init__(
        self,
        target: FollowTarget,
        store: Store,
        fetcher: Callable[[Pool], Fetcher],
        *,
        now: Callable[[], int],
        status_file: StateFile,
        on_update: Callable[[Update], None],
        on_status: Callable[[FollowStatus], None] = lambda _: None,
    ) -> None:
        self._target = target
        self._address = target.address
        self._store = store
        self._fetcher = fetcher
        self._now = now
        self._status_file = status_file
        self._on_update = on_update
        self._on_status = on_status
        self._known: dict[str, None] = {}  # ids of verified events, oldest first
        self._heads: dict[bytes, int] = {}  # release id -> version, from live heads
        self._revoked: dict[bytes, None] = {}  # ids from live revocations, which some relays send only once
        self._reported_revoked: set[bytes] = set()
        with contextlib.suppress(RandyGPTError, OSError):
            self._reported_revoked |= store.seen_versions.seen(target.address.author, target.address.name).revoked
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._last_install: Mapping[str, object] | None = None
        self._last_notified: object = None  # type and content of the last update
        wanted = Filter(authors=(self._address.author,), kinds=(HEAD_KIND, REVOCATION_KIND), limit=_STORED)
        self._subscription = Subscription(
            target.urls,
            wanted,
            self._on_event,
            signer=target.signer,
            on_change=self._on_change,
            timeouts=target.timeouts,
        )

    async def catch_up(self) -> Update | None:
        """Query all relays once and install a new version, if one exists; raises what `Fetcher.fetch` raises."""
        versions, address = self._store.seen_versions, self._address
        seen_ids = {version.release_id for version in versions.seen(address.author, address.name).versions.values()}
        await versions.revoke(address.author, address.name, self._revoked.keys() & (seen_ids | self._heads.keys()))
        target = self._target
        async with Pool(target.urls, signer=target.signer, timeouts=target.timeouts, wait_for_all=False) as pool:
            fetcher = replace(self._fetcher(pool), on_revoked=self._report_revoked)
            release = await fetcher.find(address)
            is_new = self._should_install(release)
            await versions.record(release)
            if not is_new:
                return None
            if self._target.notify_only:
                return Skipped(release=release, reason="not installed (--notify-only)")
            if self._store.current() in self._store.pinned():
                return Skipped(release=release, reason="not installed: the current release is pinned")
            decided = self._decided()
            fetched = await fetcher.fetch(EventReference(id=release.id), activate=False)
        async with self._store.lock(release.id):
            if self._decided() != decided or self._store.release(release.id) is None:
                return None  # meanwhile the user chose another release, or removed this one
            self._store.activate(release.id)
        await versions.acknowledge(address.author, address.name, release.version)
        self._last_install = {"release": release.id.hex(), "version": release.version, "at": self._now()}
        return Installed(release=fetched.release)

    async def run(self) -> None:
        """Follow until cancelled. Failures are reported and retried; repeated updates are reported once."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._subscription.run())
                group.create_task(self._keep_status())
                group.create_task(self._keep_up())
        finally:
            await self._write_status(running=False)

    async def _keep_up(self) -> None:
        backoff = Backoff(self._target.timeouts)
        while True:
            self._wake.clear()
            wait_s = RECHECK_S
            try:
                self._notify(await self.catch_up())
                if self._lags_heads():  # some relays push an event before a query returns it
                    wait_s = backoff.next()
                else:
                    backoff.reset()
            except (RandyGPTError, OSError) as error:
                self._notify(Failed(error=error))
                wait_s = backoff.next()
            self._changed.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    def _notify(self, update: Update | None) -> None:
        """Report an update unless it repeats the last one."""
        current = (type(update), str(update.error) if isinstance(update, Failed) else update)
        if update is not None and current != self._last_notified:
            self._on_update(update)
        self._last_notified = current

    def _should_install(self, release: Release) -> bool:
        """Return whether this release, the latest one, should become current."""
        current = self._store.current()
        seen = self._store.seen_versions.seen(release.author, release.name)
        if current is None or current in seen.revoked or self._store.release(current) is None:
            return True
        return release.version > seen.acknowledged

    def _decided(self) -> tuple[bytes | None, int]:
        """Return a value that changes when the user chooses a release."""
        seen = self._store.seen_versions.seen(self._address.author, self._address.name)
        return self._store.current(), seen.acknowledged

    def _lags_heads(self) -> bool:
        """Return whether a relay pushed a head with a higher version than the queries returned."""
        seen = self._store.seen_versions.seen(self._address.author, self._address.name)
        pushed = (version for release_id, version in self._heads.items() if release_id not in seen.revoked)
        return max(pushed, default=0) > seen.highest

    def _on_change(self, link: SubscriptionStatus) -> None:
        self._changed.set()
        if link.connected:
            self._wake.set()

    def _on_event(self, _url: str, raw_event: Mapping[str, object]) -> bool:
        """Verify a pushed event, and trigger a query if it is a new one of the author."""
        event_id = raw_event.get("id")
        if isinstance(event_id, str) and event_id in self._known:
            return True
        try:
            event = Event.parse(raw_event)
            if event.pubkey != self._address.author:
                return False
            if event.kind == HEAD_KIND:
                head = Head.parse(event, now=self._now())
                if head.name == self._address.name:
                    _remember(self._heads, head.release_id, head.version)
            else:
                revocation = Revocation.parse(event, now=self._now())
                for event_id in revocation.event_ids:
                    _remember(self._revoked, event_id, None)
                self._report_revocation(revocation)
        except (InvalidEvent, InvalidRelease):
            return False
        _remember(self._known, event.id.hex(), None)
        self._wake.set()
        return True

    def _report_revocation(self, revocation: Revocation) -> None:
        """Report which versions a revocation concerns, unless they were revoked before this follower started."""
        with contextlib.suppress(RandyGPTError, OSError):  # a damaged file is reported by the next query
            seen = self._store.seen_versions.seen(self._address.author, self._address.name)
            versions = {one.release_id: version for version, one in seen.versions.items()} | self._heads
            for release_id in versions.keys() & revocation.event_ids:
                self._report_revoked(release_id, versions[release_id], revocation.reason)

    def _report_revoked(self, release_id: bytes, version: int, reason: str) -> None:
        if release_id not in self._reported_revoked:
            self._reported_revoked.add(release_id)
            name = self._address.name
            self._on_update(VersionRevoked(release_id=release_id, name=name, version=version, reason=reason))

    async def _keep_status(self) -> None:
        while True:
            self._changed.clear()
            await self._write_status(running=True)
            await self._changed.wait()

    def _current_status(self) -> FollowStatus:
        version = self._store.seen_versions.seen(self._address.author, self._address.name).highest
        return FollowStatus(version=version, links=self._subscription.statuses)

    async def _write_status(self, *, running: bool) -> None:
        """Write the status for other processes; a failing disk does not stop the follower."""
        address = self._address
        with contextlib.suppress(RandyGPTError, OSError):
            status = self._current_status()
            if running:
                self._on_status(status)
            async with self._status_file.changing() as content:
                key = f"{address.author.hex()}/{address.name}"
                earlier = content.get(key)
                last = self._last_install or (earlier.get("last_install") if isinstance(earlier, dict) else None)
                content[key] = {
                    "running": running,
                    "process": os.getpid(),
                    "relays": {url: asdict(link) for url, link in status.links.items()},
                    "version": status.version,
                    "last_install": last,
                    "updated_at": self._now(),
                }


def _remember(memory: dict[K, V], key: K, value: V) -> None:
    """Add to a bounded dict; the oldest entry makes room."""
    if len(memory) >= _KNOWN:
        del memory[next(iter(memory))]
    memory[key] = value
