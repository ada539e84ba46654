"""Local store: verified files, installed releases, and the current one. Owns everything below its folder.

store/blobs/<sha256>          verified bytes, read-only, linked into releases
store/releases/<event id>/    release.json and the files under their own names
store/refs/current, previous  {"release": <event id>}, replaced whole; a server watches it
store/partial/<event id>-<sha256>.part   a file being fetched
state/pins.json               releases that the user keeps
state/seen.json               versions seen of each author's names
"""

import contextlib
import errno
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson

from distribution import locking
from distribution.errors import InvalidManifest, NewerState, StoreError
from distribution.event_archive import EventArchive
from distribution.events import Release
from distribution.installed import InstalledFile, InstalledRelease, OriginalFile, from_record, to_record
from distribution.manifest import RESERVED, FileEntry, Manifest
from distribution.partial import HeaderRewrite, PartialFile, find_wrong_segment, hash_segments, hashes_to
from distribution.seen_versions import SeenVersions
from distribution.state_file import StateFile, damaged, read_object
from relay_client import durable
from relay_client.hexadecimal import parse_hex

_LINK_UNSUPPORTED = {errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
_READ_BYTES = 1 << 20
_SPARE_BYTES = 1 << 20  # for release.json, events and refs
_ID_BYTES = 32
_STAT_BLOCK = 512  # bytes, on every file system (POSIX)

_FOLDERS = ("blobs", "releases", "refs", "events", "partial", "locks")


class Store:
    """The store below a home folder. Reading creates no folder, so a process without write access may read it.

    Folders that other users can change, as they could where an earlier version ran with a loose umask, are protected.

    Raises StoreError if they belong to another user.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "store"
        self._blobs = self.folder / "blobs"
        self._releases = self.folder / "releases"
        self._refs = self.folder / "refs"
        self._partial = self.folder / "partial"
        self._locks = self.folder / "locks"
        self._pins = StateFile(home / "state" / "pins.json")
        self.seen_versions = SeenVersions(home)
        self.event_archive = EventArchive(home)
        self.current_path = self._refs / "current"
        for folder in (self.folder, *(self.folder / name for name in _FOLDERS), home / "state"):
            _protect(folder)

    # --- reading

    def current(self) -> bytes | None:
        """Return the event id of the current release, None before the first; raises StoreError."""
        return self._read_ref(self.current_path)

    def previous(self) -> bytes | None:
        """Return the event id of the release that was current before; raises StoreError."""
        return self._read_ref(self._refs / "previous")

    def release(self, release_id: bytes) -> InstalledRelease | None:
        """Return a release, or None if it is not installed; raises StoreError if its record is damaged."""
        folder = self._releases / release_id.hex()
        _protect(folder)
        record = read_object(folder / RESERVED)
        if record is None:
            return None
        try:
            return from_record(record, folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(folder / RESERVED, error) from None

    def releases(self) -> list[InstalledRelease]:
        """Return all installed releases, the latest installed first; raises StoreError if a record is damaged."""
        ids = (parse_hex(path.name, _ID_BYTES) for path in self._releases.glob("*"))
        found = [self.release(release_id) for release_id in ids if release_id]
        return sorted(filter(None, found), key=lambda release: (release.installed_at, release.version), reverse=True)

    def pinned(self) -> frozenset[bytes]:
        """Return the ids of the pinned releases; raises StoreError."""
        ids = [parse_hex(key, _ID_BYTES) for key in self._pins.read()]
        if None in ids:
            raise self._pins.damaged("not the id of a release")
        return frozenset(filter(None, ids))

    def is_intact(self, release: InstalledRelease) -> bool:
        """Hash the files of a release again, and return whether none is damaged."""
        return not self.damaged_files(release)

    def damaged_files(self, release: InstalledRelease) -> list[InstalledFile]:
        """Hash the files of a release again, and return the damaged ones."""
        return [file for file in release.files if not _is_intact(file)]

    def has_blob(self, sha256: bytes) -> bool:
        """Return whether the store has a blob, and it still hashes right."""
        return hashes_to(self.blob_path(sha256), sha256)

    def check_segments(self, file: FileEntry) -> None:
        """Raise InvalidManifest unless the segments of a stored file hash right; also raises OSError."""
        if wrong := find_wrong_segment(file, hash_segments(self.blob_path(file.sha256), file)):
            raise InvalidManifest(wrong)

    def check_space(self, size: int) -> None:
        """Raise StoreError unless `size` more bytes fit on the disk, with a little to spare for records."""
        free = shutil.disk_usage(durable.make_directory(self._partial)).free
        if free < size + _SPARE_BYTES:
            raise StoreError(
                f"disk full: {size:,} bytes to fetch and {_SPARE_BYTES:,} to keep free for records, but only {free:,} "
                f"free in {self._partial.parent}"
            )

    # --- writing

    @contextlib.asynccontextmanager
    async def lock(self, release_id: bytes) -> AsyncIterator[None]:
        """Hold the lock of a release, so that no other process fetches or removes it; it ends with its holder."""
        async with locking.hold(self.lock_path(release_id)):
            async with locking.hold(self.collection_lock):  # wait for a running garbage collection
                pass
            yield

    def lock_path(self, release_id: bytes) -> Path:
        """Return the lock file of a release."""
        return self._locks / f"{release_id.hex()}.lock"

    @property
    def collection_lock(self) -> Path:
        """Lock file of garbage collections."""
        return self._locks / "collection.lock"

    def record_path(self, release_id: bytes) -> Path:
        """Return the path of the record of a release; it is rewritten whenever the release is repaired."""
        return self._releases / release_id.hex() / RESERVED

    def partial(self, release_id: bytes, file: FileEntry) -> PartialFile:
        """Open the part file of a file being fetched; the caller holds the lock of the release."""
        durable.make_directory(self._partial)
        return PartialFile(self._partial_path(release_id, file), file)

    def partial_size(self, release_id: bytes, file: FileEntry) -> int:
        """Return how many bytes of a file an interrupted fetch left on disk, verified or not."""
        try:
            facts = self._partial_path(release_id, file).stat()
        except FileNotFoundError:
            return 0
        return min(file.size, facts.st_blocks * _STAT_BLOCK)

    def add_blob(self, partial: PartialFile, rewrite: HeaderRewrite | None = None) -> bytes:
        """Verify a complete part file, rewrite it if asked, and move it to the blobs.

        Returns:
            SHA-256 of the blob.

        Raises:
            InvalidManifest: The bytes are not those of the file, or of a segment.
            OSError: The disk failed.
        """
        return partial.finish(durable.make_directory(self._blobs), rewrite)

    def install(self, release: Release, manifest: Manifest, original: OriginalFile | None = None) -> InstalledRelease:
        """Make a release visible in one step, after all its blobs are stored.

        A release that is installed already, damaged or with the weights only, is repaired file by file, its record
        last.

        Args:
            release: The verified release.
            manifest: Its files as they are to be installed.
            original: The signed first segment of the checkpoint, if `manifest` names a rewritten one.

        Raises:
            OSError: The disk failed.
        """
        durable.make_directory(self._releases)
        folder = self._releases / release.id.hex()
        building = self._releases / f".tmp-{release.id.hex()}"
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed; this one holds the lock
        building.mkdir(durable.DIRECTORY)
        for file in manifest.files:
            _link(self.blob_path(file.sha256), building / file.path)
        record = orjson.dumps(
            to_record(release, manifest, original, installed_at=int(time.time())), option=orjson.OPT_INDENT_2
        )
        durable.write(building / RESERVED, record)
        durable.sync_directory(building)
        if folder.is_dir():
            for name in [*(file.path for file in manifest.files), RESERVED]:
                (building / name).replace(folder / name)
            durable.sync_directory(folder)
            shutil.rmtree(building)  # still has the files that were intact
        else:
            building.rename(folder)
            durable.sync_directory(self._releases)
        return from_record(orjson.loads(record), folder)

    def activate(self, release_id: bytes) -> None:
        """Make an installed release current, and the one before `previous`; raises NewerState and OSError."""
        try:
            before = self.current()
        except NewerState:
            raise
        except StoreError:  # a damaged ref is replaced
            before = None
        if before == release_id:
            return
        durable.make_directory(self._refs)
        if before is not None:
            durable.write(self._refs / "previous", _ref(before))
        durable.write(self.current_path, _ref(release_id))

    async def use(self, release_id: bytes) -> None:
        """Make a release current at the user's request; `follow` keeps it until a newer version appears.

        Raises:
            StoreError: The file of seen versions is damaged.
            OSError: The disk failed.
        """
        await self.seen_versions.acknowledge_all()
        self.activate(release_id)

    def clear_current(self) -> None:
        """Make no release current; raises OSError."""
        self.current_path.unlink(missing_ok=True)
        durable.sync_directory(self._refs)

    async def pin(self, release_id: bytes, *, pinned: bool = True) -> None:
        """Pin a release, so that it is never removed, or unpin it; raises StoreError and OSError."""
        async with self._pins.changing() as pins:
            if pinned:
                pins.setdefault(release_id.hex(), int(time.time()))
            else:
                pins.pop(release_id.hex(), None)

    # --- internal

    def _partial_path(self, release_id: bytes, file: FileEntry) -> Path:
        return self._partial / f"{release_id.hex()}-{file.sha256.hex()}.part"  # one per release, as are the locks

    def blob_path(self, sha256: bytes) -> Path:
        """Return the path of a blob, which need not exist."""
        return self._blobs / sha256.hex()

    @staticmethod
    def _read_ref(path: Path) -> bytes | None:
        content = read_object(path)
        if content is None:
            return None
        release_id = parse_hex(content.get("release"), _ID_BYTES)
        if release_id is None:
            raise damaged(path, "no id of a release")
        return release_id


def _ref(release_id: bytes) -> bytes:
    return orjson.dumps({"release": release_id.hex()})


def _link(blob: Path, path: Path) -> None:
    """Link a blob to another name, or copy it if the file system has no hard links."""
    try:
        path.hardlink_to(blob)
    except OSError as error:
        if error.errno not in _LINK_UNSUPPORTED:
            raise
        with blob.open("rb") as source, durable.atomic_file(path, mode=durable.READ_ONLY) as target:
            shutil.copyfileobj(source, target, _READ_BYTES)


def _is_intact(file: InstalledFile) -> bool:
    if file.original and not hashes_to(file.local_path, file.original.sha256, start=file.original.start):
        return False
    return hashes_to(file.local_path, file.sha256)


def _protect(folder: Path) -> None:
    try:
        durable.protect(folder)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from None
