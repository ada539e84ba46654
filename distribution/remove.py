"""Removal of one release from the store. Does disk I/O."""

from contextlib import ExitStack
from dataclasses import dataclass

from distribution import locking
from distribution.errors import CallerError, StoreError
from distribution.gc import Garbage, folder_size, take
from distribution.installed import InstalledRelease
from distribution.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A release that was removed."""

    release: InstalledRelease
    freed: int  # bytes


def remove_release(store: Store, release: InstalledRelease, *, force: bool = False) -> Removed:
    """Remove a release, its events, and the files that no other release needs.

    A running server keeps the model that it has loaded. Files stay until the next garbage collection while another
    release is being fetched, since that fetch may need them.

    Args:
        store: The store.
        release: The release to remove.
        force: Remove the current release too; none is current then.

    Raises:
        CallerError: The release is pinned, or current without `force`.
        StoreError: The release is being fetched, or a record in the store is damaged.
        OSError: The disk failed.
    """
    with ExitStack() as locks:
        locking.enter(locks, store.collection_lock)
        if not take(locks, store.lock_path(release.id)):
            raise StoreError(f"{release.title} is in use by another process; try again later")
        check_removable(store, release, force=force)
        needed = {file.sha256 for other in store.releases() if other.id != release.id for file in other.files}
        if release.id == store.current():
            store.clear_current()
        going = [Garbage(path=release.folder, bytes=0, release=release)]
        events = store.event_archive.folder(release.id)
        going += [Garbage(path=path, bytes=folder_size(path)) for path in (events,) if path.is_dir()]
        unneeded = (
            {file.sha256 for file in release.files} - needed
            if not _others_are_fetched(store, release, locks)
            else set()
        )
        blobs = [store.blob_path(sha256) for sha256 in unneeded]
        going += [Garbage(path=path, bytes=path.lstat().st_size) for path in blobs if path.is_file()]
        for item in going:
            item.remove()
    return Removed(release=release, freed=sum(item.bytes for item in going))


def _others_are_fetched(store: Store, release: InstalledRelease, locks: ExitStack) -> bool:
    own = store.lock_path(release.id)
    others = [path for path in own.parent.glob("*.lock") if path not in {own, store.collection_lock}]
    held = [path for path in others if not take(locks, path)]
    return bool(held)


def check_removable(store: Store, release: InstalledRelease, *, force: bool = False) -> None:
    """Raise CallerError if a release is pinned, or current without `force`."""
    if release.id in store.pinned():
        raise CallerError(f"{release.title} is pinned; unpin it first: randygpt pin --remove {release.short_id}")
    if release.id == store.current() and not force:
        raise CallerError(f"{release.title} is the current release; choose another with randygpt use, or pass --force")
