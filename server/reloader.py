"""Watches which release is the store's current one, and swaps the model when that changes. Reads files, on a thread.

The signal: `refs/current`, or the record of the release that it names, is another file than before.

The contract: the new model is loaded beside the old one and tested; one assignment puts it in charge; requests under
way finish on the model they began with; a model that does not pass leaves the old one in charge. What could not be
read, by a failing disk or for want of memory, is tried again, after longer and longer waits.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distribution.errors import StoreError
from distribution.store import Store
from server.errors import UnfitModel, Unreadable
from server.limits import ReloadTiming
from server.logs import printable
from server.models import ActiveModel, LoadedModel, load_release

log = logging.getLogger(__name__)


class Reloader:
    """Keeps `serving` on the store's current release."""

    def __init__(self, store: Store, active: ActiveModel, timing: ReloadTiming | None = None) -> None:
        self._store = store
        self._active = active
        self._timing = timing or ReloadTiming()
        self._lock = asyncio.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")  # always the same: it uses its memory again
        self._signal: object = None  # what refs/current and the release's record looked like when last read
        self._named: object = None  # refs/current alone, likewise
        self._record: Path | None = None  # of the release that it names
        self._wait_s = 0.0  # before the next try; 0: there is nothing to try again
        self._next_try = math.inf  # on the event loop's clock

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._timing.poll_s)

    async def look(self, *, again: bool = False) -> None:
        """Swap if the signal moved since the last look or a try is due, or (`again`) in any case.

        Never raises for what is wrong with a release.
        """
        async with self._lock:
            moved, now = self._read_signal() != self._signal, asyncio.get_running_loop().time()
            if not (again or moved or now >= self._next_try):
                return
            await self._active.wait_until_drained()
            self._signal = self._read_signal()
            wait_s = 0.0 if again or moved else self._wait_s
            try:
                await self._swap(self._load)
            except (Unreadable, OSError) as error:
                self._fail(str(error))
                self._try_again_after(min(2 * wait_s or self._timing.retry_s, self._timing.max_retry_s))
            except (UnfitModel, StoreError) as error:
                self._fail(str(error))
            except Exception as error:  # a bug must not end the watch
                self._fail(repr(error))
                log.exception("a model could not be loaded")

    async def use(self, release_id: bytes) -> None:
        """Serve another release of the store until the signal moves; raises UnfitModel."""
        async with self._lock:
            await self._active.wait_until_drained()
            try:
                await self._swap(lambda: self._load_release(release_id, ""))
            except (StoreError, OSError) as error:
                raise UnfitModel(str(error)) from None

    async def _swap(self, load: Callable[[], LoadedModel | None]) -> None:
        loaded = await asyncio.get_running_loop().run_in_executor(self._loader, load)
        self._next_try = math.inf
        self._active.failure = None
        if loaded is not None:
            self._active.current = loaded
            self._active.swaps += 1
            log.info("serving %s (%s)", loaded.label, loaded.release_id)

    def _fail(self, reason: str) -> None:
        self._next_try = math.inf
        self._active.failure = printable(reason)
        self._active.failures += 1
        log.error("not swapped: %s", reason)

    def _try_again_after(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._next_try = asyncio.get_running_loop().time() + wait_s

    def _read_signal(self) -> object:
        named = _facts(self._store.current_path)
        if named != self._named:
            self._named, self._record = named, self._find_record()
        return named, self._record and _facts(self._record)

    def _find_record(self) -> Path | None:
        try:
            release_id = self._store.current()
        except (StoreError, OSError):
            return None
        return None if release_id is None else self._store.record_path(release_id)

    def _load(self) -> LoadedModel | None:
        """The current release's model, None if it is the one in charge already."""
        release_id = self._store.current()
        return None if release_id is None else self._load_release(release_id, "current and ")

    def _load_release(self, release_id: bytes, where: str) -> LoadedModel | None:
        current = self._active.current
        if current and current.release_id == release_id.hex():
            return None
        release = self._store.release(release_id)
        if release is None:
            raise UnfitModel(f"release {release_id.hex()} is {where}not installed")
        return load_release(release)


def _facts(path: Path) -> object:
    """What is different when a file was replaced."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return repr(error)
    return (facts.st_ino, facts.st_mtime_ns, facts.st_size)
