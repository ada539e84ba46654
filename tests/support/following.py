"""A running follower of the tiny model, and its updates."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import orjson

from distribution.fetch import Fetcher
from distribution.follow import Follower, FollowTarget, Installed, Update
from distribution.state_file import StateFile
from distribution.store import Store
from distribution.trust import TrustPolicy
from relay_client.nip19 import AddressReference
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts
from support.releases import clock

GIVE_UP_S = 180  # between two tries of a relay that was away may be a minute


class Follow:
    """A running follower, and the updates it reported."""

    def __init__(
        self,
        urls: Sequence[str],
        home: Path,
        author: bytes,
        *,
        notify_only: bool = False,
        trusted: bytes | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.updates: list[Update] = []
        self.store = Store(home)
        self._came = asyncio.Condition()
        policy = TrustPolicy(mode="allowlist", authors=frozenset({trusted or author}))
        followed = FollowTarget(
            address=AddressReference(author=author, name="demo"),
            urls=tuple(urls),
            notify_only=notify_only,
            timeouts=timeouts,
        )
        self.follower = Follower(
            followed,
            self.store,
            lambda pool: Fetcher(pool=pool, store=self.store, policy=policy, now=clock),
            now=clock,
            status_file=StateFile(home / "state" / "follow.json"),
            on_update=self._take,
        )
        self.status_path = home / "state" / "follow.json"

    def _take(self, update: Update) -> None:
        self.updates.append(update)

    @property
    def installed(self) -> list[int]:
        return [update.release.version for update in self.updates if isinstance(update, Installed)]

    def has_installed(self, version: int) -> bool:
        return bool(self.installed) and self.installed[-1] == version

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            while not condition():  # noqa: ASYNC110 (what is waited for is on disk, or stays once it is there)
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Follow"]:
        task = asyncio.create_task(self.follower.run())
        try:
            yield self
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def status(self) -> dict[str, object]:
        if not self.status_path.exists():
            return {}
        (entry,) = orjson.loads(self.status_path.read_bytes()).values()
        return dict(entry)

    def live(self, *urls: str) -> Callable[[], bool]:
        """Return a condition: the follower is connected to exactly these relays."""

        def connected() -> bool:
            relays = self.status().get("relays", {})
            assert isinstance(relays, dict)
            return {url for url, link in relays.items() if link["connected"]} == set(urls)

        return connected
