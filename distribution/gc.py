"""Garbage collection of the store, and its quota. Does disk I/O.

The current, the previous and the pinned releases are kept, as is everything that is being fetched, and every blob that
one of these needs. A collection holds the lock of each release that it may remove. A fetch that holds the lock of its
release waits for a running collection before it looks at the store, so nothing that a fetch relies on is removed.
"""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from distribution import locking
from distribution.errors import StoreError
from distribution.installed import InstalledRelease
from distribution.state_file import StateFile
from distribution.store import Store
from relay_client.hexadecimal import parse_hex

STALE_S = 86_400.0  # a fetch that was interrupted longer ago is not expected to resume
_ID_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A file, folder or release in the store that may be removed."""

    path: Path
    bytes: int  # freed by its removal
    release: InstalledRelease | None = None  # if it is one; the space of its files is freed with their blobs

    def remove(self) -> None:
        """Remove it; a release disappears in one step. Raises OSError."""
        if not self.path.is_dir():
            self.path.unlink(missing_ok=True)
            return
        going = self.path.with_name(f".old-{self.path.name.removeprefix('.old-')}")
        if going != self.path:
            self.path.rename(going)
        shutil.rmtree(going)


class GarbageCollector:
    """Removes unused releases, blobs and unfinished fetches from a store.

    Args:
        store: The store.
        during: Id of the release that the caller is fetching, if any; its lock is held by the caller.
        blobs: Hashes of the blobs that this fetch needs.
    """

    def __init__(self, store: Store, *, during: bytes | None = None, blobs: Collection[bytes] = ()) -> None:
        self._store = store
        self._during = during
        self._blobs = blobs

    def collect(
        self, *, keep: int = 0, stale_s: float = STALE_S, enough: int | None = None, dry_run: bool = False
    ) -> list[Garbage]:
        """Remove unused items.

        Args:
            keep: Number of releases, those installed last, to keep as well.
            stale_s: Age in seconds from which an unfinished fetch is removed.
            enough: Stop once this many bytes are freed; the oldest releases go first. None: remove all.
            dry_run: Remove nothing.

        Returns:
            What was removed, or with `dry_run` would be.

        Raises:
            StoreError: A record in the store is damaged; what it needs is unknown, so nothing is removed.
            OSError: The disk failed.
        """
        gone: list[Garbage] = []
        with ExitStack() as locks:
            locking.enter(locks, self._store.collection_lock)
            for item in self._items(locks, keep, stale_s):
                if enough is not None and sum(each.bytes for each in gone) >= enough:
                    break
                if not dry_run:
                    item.remove()
                gone.append(item)
        return gone

    def _items(self, locks: ExitStack, keep: int, stale_s: float) -> Iterator[Garbage]:
        """Yield removable items, in order of preference; lock each release that is not being fetched."""
        store, installed = self._store, self._store.releases()
        unfinished = [*store.folder.glob("partial/*.part"), *store.folder.glob("releases/.*-*")]
        here = {release.id for release in installed}
        unfinished += [path for path in store.folder.glob("events/*") if _release_of(path) not in here]
        known = here | {_release_of(path) for path in unfinished}
        idle = {release_id for release_id in known - {self._during} if take(locks, store.lock_path(release_id))}
        kept = {store.current(), store.previous(), *store.pinned(), *(known - idle)}
        for path in unfinished:
            if _release_of(path) in idle and path.lstat().st_mtime <= time.time() - stale_s:
                yield Garbage(path=path, bytes=folder_size(path))
        blobs = {} if known - idle - {self._during} else {path.name: path for path in store.folder.glob("blobs/*")}
        needs = Counter(file.sha256.hex() for release in installed for file in release.files)
        needs.update(digest.hex() for digest in self._blobs)
        for name in blobs.keys() - needs.keys():
            yield Garbage(path=blobs[name], bytes=blobs[name].lstat().st_size)
        for release in reversed(installed[keep:]):
            if release.id in kept:
                continue
            yield Garbage(path=release.folder, bytes=0, release=release)
            events = store.event_archive.folder(release.id)
            if events.is_dir():
                yield Garbage(path=events, bytes=folder_size(events))
            needs.subtract(file.sha256.hex() for file in release.files)
            for name in {file.sha256.hex() for file in release.files} & blobs.keys():
                if not needs[name]:
                    yield Garbage(path=blobs[name], bytes=blobs[name].lstat().st_size)


class Quota:
    """Limit of the size of the store. Owns state/quota.json."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / "state" / "quota.json")

    def read(self) -> int | None:
        """Return the limit in bytes, None for no limit; raises StoreError."""
        content = self._file.read()
        limit = content.get("bytes")
        if content and (type(limit) is not int or limit <= 0):
            raise self._file.damaged("bytes is not a number above 0")
        return limit

    async def set(self, limit: int | None) -> None:
        """Set the limit in bytes, or remove it with None; raises StoreError and OSError."""
        async with self._file.changing() as content:
            content.clear()
            if limit is not None:
                content["bytes"] = limit


def disk_usage(store: Store) -> int:
    """Return the size of the store in bytes, with the full size of unfinished fetches; raises OSError."""
    sizes = {}
    for path in store.folder.glob("*/**/*"):
        facts = path.lstat()
        if path.is_file():
            sizes[facts.st_dev, facts.st_ino] = facts.st_size  # a blob and its links count once
    return sum(sizes.values())


async def make_room(store: Store, release_id: bytes, blobs: Collection[bytes]) -> None:
    """Collect garbage until a fetch whose part files exist, but are still empty, fits the quota.

    Args:
        store: The store.
        release_id: Id of the release being fetched.
        blobs: Hashes of the blobs that the fetch reuses.

    Raises:
        StoreError: It does not fit.
        OSError: The disk failed.
    """
    limit = Quota(store.home).read()
    if limit is None:
        return
    excess = await asyncio.to_thread(disk_usage, store) - limit
    if excess > 0:
        collector = GarbageCollector(store, during=release_id, blobs=blobs)
        gone = await asyncio.to_thread(collector.collect, stale_s=0, enough=excess)
        excess -= sum(item.bytes for item in gone)
    if excess > 0:
        raise StoreError(
            f"the fetch exceeds the quota of {limit:,} bytes by {excess:,}, and nothing more can be removed; "
            "raise it with randygpt gc --quota"
        )


def _release_of(path: Path) -> bytes:
    """Return the id of the release that an unfinished `<id>-….part` or `.tmp-<id>` belongs to; empty if unclear."""
    digits = path.name[:_ID_DIGITS] if path.suffix == ".part" else path.name[-_ID_DIGITS:]
    return parse_hex(digits, 32) or b""


def take(locks: ExitStack, path: Path) -> bool:
    """Return whether a lock was free; it is taken then, until the stack is closed."""
    try:
        locking.enter(locks, path, timeout_s=0)
    except Timeout:
        return False
    return True


def folder_size(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes; raises OSError."""
    return sum(each.lstat().st_size for each in (path, *path.rglob("*")) if each.is_file())
