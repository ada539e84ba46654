"""Follow a name: install each new version once, whatever order, repeats and outages the relays bring.

A live subscription only signals that a new version may exist. `catch_up` then queries all relays and decides by what
this machine has seen before, so missed and repeated events do no harm.
Does network I/O, and disk I/O through the store.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from distribution.errors import CallerError, InvalidRelease, RandyGPTError
from distribution.events import HEAD_KIND, Head, Release
from distribution.fetch import Fetcher, check_address
from distribution.installed import InstalledRelease
from distribution.revocation import REVOCATION_KIND, Revocation
from distribution.state_file import StateFile
from distribution.store import Store
from relay_client.backoff import Backoff
from relay_client.errors import InvalidEvent
from relay_client.event import Event, Signer
from relay_client.filter import Filter
from relay_client.keys import AddressReference, EventReference
from relay_client.pool import Pool
from relay_client.subscription import Subscription, SubscriptionStatus
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

K = TypeVar("K")
V = TypeVar("V")

RECHECK_S = 600.0  # a subscription may have died without a word
_STORED = 100  # events of the author that a relay sends at first; they are only a sign to look
_KNOWN = 10_000  # ids of verified events that are not verified again


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A release was installed, and is current."""

    release: InstalledRelease


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """There is a release that was left where it is."""

    release: Release
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Something was refused, or did not work; following goes on."""

    error: Exception


Update = Installed | Skipped | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowStatus:
    """How following stands."""

    version: int  # the highest met, 0 before the first
    links: Mapping[str, SubscriptionStatus]  # by the relay's address


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowTarget:
    """What to follow, and on which relays."""

    address: AddressReference
    urls: Sequence[str]
    notify_only: bool = False
    signer: Signer | None = None  # for relays that require authentication (NIP-42)
    timeouts: Timeouts = DEFAULT_TIMEOUTS

    def __post_init__(self) -> None:
        check_address(self.address)
        if not self.urls:
            raise CallerError("no relay to follow on")


class Follower:
    """Follows one name of one author. `fetcher` makes one for an open pool."""

    def __init__(
        self,
        followed: FollowTarget,
        store: Store,
        fetcher: Callable[[Pool], Fetcher],
        *,
        now: Callable[[], int],
        status_file: StateFile,
        on_update: Callable[[Update], None],
        on_status: Callable[[FollowStatus], None] = lambda _: None,
    ) -> None:
        self._followed = followed
        self._address = followed.address
        self._store = store
        self._fetcher = fetcher
        self._now = now
        self._status_file = status_file
        self._on_update = on_update
        self._on_status = on_status
        self._known: dict[str, None] = {}  # in the order they came
        self._heads: dict[bytes, int] = {}  # release id -> version, as heads that were seen live say
        self._revoked: dict[bytes, None] = {}  # ids that were taken back live: some relays tell of it only once
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._last_install: Mapping[str, object] | None = None
        self._last_notified: object = None  # what was last said of something that is not installed
        wanted = Filter(authors=(self._address.author,), kinds=(HEAD_KIND, REVOCATION_KIND), limit=_STORED)
        self._subscription = Subscription(
            followed.urls,
            wanted,
            self._on_event,
            signer=followed.signer,
            on_change=self._on_change,
            timeouts=followed.timeouts,
        )

    async def catch_up(self) -> Update | None:
        """Ask all relays once, and install what is new; None if nothing is. Raises what `Fetcher.fetch` raises."""
        versions, address = self._store.seen_versions, self._address
        met = {version.release_id for version in versions.seen(address.author, address.name).versions.values()}
        await versions.revoke(address.author, address.name, self._revoked.keys() & (met | self._heads.keys()))
        async with Pool(self._followed.urls, signer=self._followed.signer, timeouts=self._followed.timeouts) as pool:
            fetcher = self._fetcher(pool)
            release = await fetcher.find(address)
            is_new = self._should_install(release)
            await versions.record(release)
            if not is_new:
                return None
            if self._followed.notify_only:
                return Skipped(release=release, reason="not installed, as you wish (--notify-only)")
            if self._store.current() in self._store.pinned():
                return Skipped(release=release, reason="not installed: the current release is pinned")
            decided = self._decided()
            fetched = await fetcher.fetch(EventReference(id=release.id), activate=False)
        async with self._store.lock(release.id):
            if self._decided() != decided or self._store.release(release.id) is None:
                return None  # the user chose another one meanwhile, or removed it
            self._store.activate(release.id)
        await versions.acknowledge(address.author, address.name, release.version)
        self._last_install = {"release": release.id.hex(), "version": release.version, "at": self._now()}
        return Installed(release=fetched.release)

    async def run(self) -> None:
        """Follow until cancelled. Update is told once; what goes wrong is told, and tried again later."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._subscription.run())
                group.create_task(self._keep_status())
                group.create_task(self._keep_up())
        finally:
            await self._write_status(running=False)

    async def _keep_up(self) -> None:
        backoff = Backoff(self._followed.timeouts)
        while True:
            self._wake.clear()
            wait_s = RECHECK_S
            try:
                self._notify(await self.catch_up())
                if self._lags_heads():  # some relays tell of an event before it can be asked for
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
        said = (type(update), str(update.error) if isinstance(update, Failed) else update)
        if update is not None and said != self._last_notified:
            self._on_update(update)
        self._last_notified = said

    def _should_install(self, release: Release) -> bool:
        """Whether this release, the latest there is, should be current and is not."""
        current = self._store.current()
        seen = self._store.seen_versions.seen(release.author, release.name)
        if current is None or current in seen.revoked or self._store.release(current) is None:
            return True
        return release.version > seen.acknowledged

    def _decided(self) -> tuple[bytes | None, int]:
        """What is different after the user has chosen a release."""
        return self._store.current(), self._store.seen_versions.seen(
            self._address.author, self._address.name
        ).acknowledged

    def _lags_heads(self) -> bool:
        """Whether a relay told of a higher version than asking has found."""
        seen = self._store.seen_versions.seen(self._address.author, self._address.name)
        told = (version for release_id, version in self._heads.items() if release_id not in seen.revoked)
        return max(told, default=0) > seen.highest

    def _on_change(self, link: SubscriptionStatus) -> None:
        self._changed.set()
        if link.connected:
            self._wake.set()

    def _on_event(self, _url: str, raw_event: Mapping[str, object]) -> bool:
        """Look again if this event is the author's and was not here before."""
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
                for event_id in Revocation.parse(event, now=self._now()).event_ids:
                    _remember(self._revoked, event_id, None)
        except (InvalidEvent, InvalidRelease):
            return False
        _remember(self._known, event.id.hex(), None)
        self._wake.set()
        return True

    async def _keep_status(self) -> None:
        while True:
            self._changed.clear()
            await self._write_status(running=True)
            await self._changed.wait()

    def _current_status(self) -> FollowStatus:
        version = self._store.seen_versions.seen(self._address.author, self._address.name).highest
        return FollowStatus(version=version, links=self._subscription.statuses)

    async def _write_status(self, *, running: bool) -> None:
        """How it stands, for whoever shows it; a full disk is no reason to stop."""
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
    """Add to a memory with a bound: the oldest goes first."""
    if len(memory) >= _KNOWN:
        del memory[next(iter(memory))]
    memory[key] = value
