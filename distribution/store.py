"""The local store: verified files, installed releases, and which one is current. Owns everything below its folder.

store/blobs/<sha256>          verified bytes, read-only, linked into releases
store/releases/<event id>/    release.json and the files under their own names
store/refs/current, previous  {"release": <event id>}, replaced whole: the signal a server watches
store/partial/<event id>-<sha256>.part   a file of a release being fetched
state/pins.json               releases that the user wants kept
state/seen.json               versions met of each author's names
"""

import contextlib
import errno
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
from filelock import AsyncFileLock

from distribution.errors import NewerState, StoreError
from distribution.event_archive import EventArchive
from distribution.events import Release
from distribution.installed import InstalledFile, InstalledRelease, OriginalFile, from_record, to_record
from distribution.manifest import RESERVED, FileEntry, Manifest
from distribution.partial import HeaderRewrite, PartialFile, hashes_to
from distribution.seen_versions import SeenVersions
from distribution.state_file import StateFile, damaged, read_object
from relay_client import durable
from relay_client.hexadecimal import parse_hex

_LINK_UNSUPPORTED = {errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
_READ_BYTES = 1 << 20
_ID_BYTES = 32


class Store:
    """The store below a home folder. Reading makes no folder, so a read-only process may use it too."""

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

    # --- reading

    def current(self) -> bytes | None:
        """Event id of the active release, None before the first; raises StoreError."""
        return self._read_ref(self.current_path)

    def previous(self) -> bytes | None:
        """Event id of the release that was active before; raises StoreError."""
        return self._read_ref(self._refs / "previous")

    def release(self, release_id: bytes) -> InstalledRelease | None:
        """An installed release, None if it is not installed; raises StoreError if its record is damaged."""
        folder = self._releases / release_id.hex()
        record = read_object(folder / RESERVED)
        if record is None:
            return None
        try:
            return from_record(record, folder)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(folder / RESERVED, error) from None

    def releases(self) -> list[InstalledRelease]:
        """All installed releases, the one installed last first; raises StoreError if a record is damaged."""
        ids = (parse_hex(path.name, _ID_BYTES) for path in self._releases.glob("*"))
        found = [self.release(release_id) for release_id in ids if release_id]
        return sorted(filter(None, found), key=lambda release: (release.installed_at, release.version), reverse=True)

    def pinned(self) -> frozenset[bytes]:
        """Ids of the releases that the user wants kept; raises StoreError."""
        ids = [parse_hex(key, _ID_BYTES) for key in self._pins.read()]
        if None in ids:
            raise self._pins.damaged("not the id of a release")
        return frozenset(filter(None, ids))

    def is_intact(self, release: InstalledRelease) -> bool:
        """Whether an installed release's files are still what they were, checked by hashing them again."""
        return not self.damaged(release)

    def damaged(self, release: InstalledRelease) -> list[InstalledFile]:
        """The files of a release that are not what they were, checked by hashing all of them again."""
        return [file for file in release.files if not _is_intact(file)]

    def has_blob(self, sha256: bytes) -> bool:
        """Whether these bytes are in the store, checked by hashing them again."""
        return hashes_to(self._blob(sha256), sha256)

    def check_space(self, size: int) -> None:
        """Raises StoreError unless `size` more bytes, and a little, fit on the disk."""
        free = shutil.disk_usage(durable.make_directory(self._partial)).free
        if free < size + _READ_BYTES:
            raise StoreError(f"no room: {size} bytes to come, {free} free below {self._partial.parent}")

    # --- writing

    @contextlib.asynccontextmanager
    async def lock(self, release_id: bytes) -> AsyncIterator[None]:
        """Held while a release is fetched or chosen: nobody else fetches or removes it. Ends with its holder."""
        async with AsyncFileLock(self.lock_path(release_id)):
            async with AsyncFileLock(self.collection_lock):  # a collection that runs goes by what was held before
                pass
            yield

    def lock_path(self, release_id: bytes) -> Path:
        """The file behind the lock of a release, in a folder that exists; raises OSError."""
        return durable.make_directory(self._locks) / f"{release_id.hex()}.lock"

    @property
    def collection_lock(self) -> Path:
        """The file behind the lock of a collection, in a folder that exists; raises OSError."""
        return durable.make_directory(self._locks) / "collection.lock"

    def record_path(self, release_id: bytes) -> Path:
        """The record of a release, if it is installed; written anew whenever that is put right."""
        return self._releases / release_id.hex() / RESERVED

    def partial(self, release_id: bytes, file: FileEntry) -> PartialFile:
        """Begin to fetch a file of a release whose lock is held, or go on with it."""
        name = f"{release_id.hex()}-{file.sha256.hex()}.part"  # two releases never share one: nor would their locks
        return PartialFile(durable.make_directory(self._partial) / name, file.size)

    def keep(self, partial: PartialFile, file: FileEntry, rewrite: HeaderRewrite | None = None) -> bytes:
        """Move a complete file to the blobs, rewritten if need be; returns the blob's hash.

        Raises InvalidManifest if it is not the file named, and OSError.
        """
        return partial.finish(file.sha256, durable.make_directory(self._blobs), rewrite)

    def install(self, release: Release, manifest: Manifest, original: OriginalFile | None = None) -> InstalledRelease:
        """Make a release whose blobs are all here visible, whole at once; raises OSError.

        `original` is what the checkpoint was, if the manifest was changed to name a rewritten part of it. A release
        that is there already, damaged or in part, is put right file by file, its record last.
        """
        durable.make_directory(self._releases)
        folder = self._releases / release.id.hex()
        building = self._releases / f".tmp-{release.id.hex()}"
        shutil.rmtree(building, ignore_errors=True)  # a killed predecessor's; the lock is ours
        building.mkdir()
        for file in manifest.files:
            _link(self._blob(file.sha256), building / file.path)
        record = orjson.dumps(
            to_record(release, manifest, original, installed_at=int(time.time())), option=orjson.OPT_INDENT_2
        )
        durable.write(building / RESERVED, record)
        durable.sync_directory(building)
        if folder.is_dir():
            for name in [*(file.path for file in manifest.files), RESERVED]:
                (building / name).replace(folder / name)
            durable.sync_directory(folder)
            shutil.rmtree(building)  # links to what was there already are still in it
        else:
            building.rename(folder)
            durable.sync_directory(self._releases)
        return from_record(orjson.loads(record), folder)

    def activate(self, release_id: bytes) -> None:
        """Make an installed release the current one; the one before becomes `previous`. Raises OSError."""
        try:
            before = self.current()
        except NewerState:
            raise
        except StoreError:  # a damaged ref is replaced like any other
            before = None
        if before == release_id:
            return
        durable.make_directory(self._refs)
        if before is not None:
            durable.write(self._refs / "previous", _ref(before))
        durable.write(self.current_path, _ref(release_id))

    async def use(self, release_id: bytes) -> None:
        """Make an installed release current because the user says so: `follow` leaves it until a newer one appears.

        Raises StoreError and OSError.
        """
        await self.seen_versions.acknowledge_all()
        self.activate(release_id)

    async def pin(self, release_id: bytes, *, pinned: bool = True) -> None:
        """Keep a release whatever happens, or no more; raises StoreError and OSError."""
        async with self._pins.changing() as pins:
            if pinned:
                pins.setdefault(release_id.hex(), int(time.time()))
            else:
                pins.pop(release_id.hex(), None)

    # --- inside

    def _blob(self, sha256: bytes) -> Path:
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
    """The blob under another name: a hard link, or a copy where the file system has none."""
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
