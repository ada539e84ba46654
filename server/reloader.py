"""Reloader: swaps the active model when the store's current release changes. Reads files, on a thread of its own.

A swap is due when `refs/current`, or the record of the release that it names, was replaced. The new model is loaded
next to the old one and tested, then becomes active in one assignment. Running requests finish on the model they started
with. A load ends early if another release becomes current. A model that fails its test leaves the old one active. A
model that could not be read, because of a disk error or lack of memory, is retried with back-off.
"""

import asyncio
import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from distribution.errors import StoreError
from distribution.store import Store
from randygpt.terminal import escape_line
from server.errors import ModelLoadError, ModelUnavailable, Superseded
from server.limits import PositiveFields
from server.memory import DEFAULT_MAX_MEMORY
from server.models import ActiveModel, LoadedModel, load_release

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadTiming(PositiveFields):
    """Timing of a reloader, in seconds."""

    poll_s: float = 0.2  # each poll is a stat of two files
    retry_s: float = 1.0  # before the first retry of a model that could not be read; doubles with each
    max_retry_s: float = 60.0


class Reloader:
    """Poller that keeps the active model on the store's current release.

    Args:
        store: Has the releases.
        active: The model to replace.
        timing: When to poll and to retry.
        max_memory: Bytes of memory that a model may take.
    """

    def __init__(
        self,
        store: Store,
        active: ActiveModel,
        timing: ReloadTiming | None = None,
        *,
        max_memory: int = DEFAULT_MAX_MEMORY,
    ) -> None:
        self._store = store
        self._active = active
        self._timing = timing or ReloadTiming()
        self._max_memory = max_memory
        self._lock = asyncio.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")  # one thread, so that its heap is reused
        self._loaded_signal: object = None  # the signal at the last load
        self._ref: object = None  # identity of refs/current when it was last read
        self._record_path: Path | None = None  # of the release that it names
        self._wait_s = 0.0  # before the next retry
        self._retry_at = math.inf  # on the event loop's clock

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._timing.poll_s)

    async def check(self, *, force: bool = False) -> None:
        """Swap if the current release changed or a retry is due.

        Never raises for a bad release: `ActiveModel.failure` has the reason.

        Args:
            force: Skips the change and retry checks; a release that is already active is not loaded again.
        """
        async with self._lock:
            changed, now = self._read_signal() != self._loaded_signal, asyncio.get_running_loop().time()
            if not (force or changed or now >= self._retry_at):
                return
            await self._active.wait_until_drained()
            self._loaded_signal = self._read_signal()
            wait_s = 0.0 if force or changed else self._wait_s
            try:
                while not await self._swap_unless_superseded():
                    self._loaded_signal = self._read_signal()
            except (ModelUnavailable, OSError) as error:
                self._fail(str(error))
                self._retry_after(min(2 * wait_s or self._timing.retry_s, self._timing.max_retry_s))
            except (ModelLoadError, StoreError) as error:
                self._fail(str(error))
            except Exception as error:  # a bug must not end the polling
                self._fail(repr(error))
                log.exception("loading a model failed")

    async def use(self, release_id: bytes) -> None:
        """Make another release of the store active until the current one changes; raises ModelLoadError."""
        async with self._lock:
            await self._active.wait_until_drained()
            try:
                await self._swap(lambda superseded: self._load(release_id, f"release {release_id.hex()}", superseded))
            except (StoreError, OSError) as error:
                raise ModelLoadError(str(error)) from None

    async def _swap_unless_superseded(self) -> bool:
        try:
            await self._swap(self._load_current)
        except Superseded as error:
            log.info("model swap ended early: %s", error)
            return False
        return True

    async def _swap(self, load: Callable[[threading.Event], LoadedModel | None]) -> None:
        """Load a model and make it active; ends early if the store's current release changes meanwhile, or on cancel.

        Raises:
            Superseded: The store's current release changed.
        """
        superseded, signal = threading.Event(), self._read_signal()
        loading = asyncio.get_running_loop().run_in_executor(self._loader, load, superseded)
        try:
            while not (await asyncio.wait([loading], timeout=self._timing.poll_s))[0]:
                if self._read_signal() != signal:
                    superseded.set()
        finally:
            superseded.set()
            loading.cancel()
        loaded = loading.result()
        self._retry_at = math.inf
        self._active.failure = None
        if loaded is not None:
            self._active.current = loaded
            self._active.swaps += 1
            log.info("active model: %s (%s)", loaded.label, loaded.release_id)

    def _fail(self, reason: str) -> None:
        self._retry_at = math.inf
        self._active.failure = escape_line(reason)
        self._active.failures += 1
        log.error("model swap failed: %s", reason)

    def _retry_after(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._retry_at = asyncio.get_running_loop().time() + wait_s

    def _read_signal(self) -> object:
        """Return a value that changes when `refs/current` or the record of its release is replaced."""
        ref = _identity(self._store.current_path)
        if ref != self._ref:
            self._ref, self._record_path = ref, self._find_record()
        return ref, self._record_path and _identity(self._record_path)

    def _find_record(self) -> Path | None:
        try:
            release_id = self._store.current()
        except (StoreError, OSError):
            return None
        return None if release_id is None else self._store.record_path(release_id)

    def _load_current(self, superseded: threading.Event) -> LoadedModel | None:
        release_id = self._store.current()
        if release_id is None:
            return None
        return self._load(release_id, f"the current release {release_id.hex()}", superseded)

    def _load(self, release_id: bytes, name: str, superseded: threading.Event) -> LoadedModel | None:
        """Load a release; return None if it is active already."""
        current = self._active.current
        if current and current.release_id == release_id.hex():
            return None
        release = self._store.release(release_id)
        if release is None:
            raise ModelLoadError(f"{name} is not installed")
        return load_release(release, max_memory=self._max_memory, superseded=superseded)


def _identity(path: Path) -> object:
    """Return a value that changes when the file is replaced."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return repr(error)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
