"""The local store: what is installed, what is current, and what was seen."""

import errno
import os
import stat
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import filelock
import orjson
import pytest

from distribution.chunking import count
from distribution.errors import StoreError
from distribution.events import Release, release_draft
from distribution.installed import InstalledRelease
from distribution.local_release import read_release
from distribution.manifest import FileEntry, Manifest, Segment
from distribution.seen_versions import Seen
from distribution.store import Store
from relay_client import durable
from relay_client.keys import SecretKey

KEY = SecretKey(bytes.fromhex("11" * 32))
NOW = 1_790_000_000
CARD = {"text": "Grüße 🧪"}
FILES = {"checkpoint": b"weights" * 20_000, "tokenizer": b'{"chars": ["a"]}', "config": b"{}"}


def entry(role: str, data: bytes) -> FileEntry:
    digest = sha256(data).digest()
    return FileEntry(
        path=f"{role}.bin",
        role=role,
        size=len(data),
        sha256=digest,
        segments=(Segment(name="weights" if role == "checkpoint" else "data", size=len(data), sha256=digest),),
        references=bytes(64) * count(len(data)),
    )


def release_of(files: Sequence[FileEntry], *, version: int = 1, name: str = "demo", manifest: bytes = b"") -> Release:
    draft = release_draft(
        manifest,
        [bytes(32)],
        name=name,
        version=version,
        format="RGPT0003",
        size=sum(file.size for file in files) or 1,
        card=CARD,
        hint="",
        created_at=NOW,
    )
    return Release.parse(draft.sign(KEY), now=NOW)


ENTRIES = tuple(entry(role, data) for role, data in FILES.items())
MANIFEST = Manifest(files=ENTRIES)
RELEASE = release_of(ENTRIES)


def put(store: Store, file: FileEntry, data: bytes) -> None:
    with store.partial(RELEASE.id, file) as partial:
        partial.write(0, data)
        store.add_blob(partial)


def fill(store: Store) -> None:
    for file, data in zip(ENTRIES, FILES.values(), strict=True):
        put(store, file, data)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home)


@pytest.fixture
def installed(store: Store) -> InstalledRelease:
    fill(store)
    return store.install(RELEASE, MANIFEST)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def damage(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# --- an empty home


def test_reading_creates_no_folder(store: Store, home: Path) -> None:
    assert store.current() is None
    assert store.release(RELEASE.id) is None
    assert store.seen_versions.seen(KEY.pubkey, "demo") == Seen()
    assert (store.releases(), store.pinned(), store.previous()) == ([], frozenset(), None)
    assert not store.has_blob(bytes(32))
    assert not home.exists()


# --- blobs


def test_open_folders_are_protected(store: Store, home: Path, installed: InstalledRelease) -> None:
    folders = [store.folder, store.folder / "blobs", store.folder / "releases", installed.folder]
    for folder in folders:
        folder.chmod(0o777)
    assert Store(home).release(installed.id) == installed
    assert {mode(folder) for folder in folders} == {0o755}


def test_open_folder_of_another_user_is_refused(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    (store.folder / "blobs").chmod(0o777)

    def chmod(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", chmod)
    with pytest.raises(StoreError, match=r"every user can change it; its owner should run chmod go-w .*blobs$"):
        Store(home)


def test_blob_is_stored_read_only_under_its_hash(store: Store, home: Path) -> None:
    put(store, ENTRIES[1], FILES["tokenizer"])
    blob = home / "store" / "blobs" / ENTRIES[1].sha256.hex()
    assert blob.read_bytes() == FILES["tokenizer"]
    assert mode(blob) == 0o444
    assert store.has_blob(ENTRIES[1].sha256)
    assert not store.has_blob(ENTRIES[2].sha256)


def test_damaged_blob_does_not_count(store: Store, home: Path) -> None:
    put(store, ENTRIES[0], FILES["checkpoint"])
    damage(home / "store" / "blobs" / ENTRIES[0].sha256.hex())
    assert not store.has_blob(ENTRIES[0].sha256)
    put(store, ENTRIES[0], FILES["checkpoint"])
    assert store.has_blob(ENTRIES[0].sha256)


def test_linked_blob_is_refused(store: Store, home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(FILES["config"])
    durable.make_directory(home / "store" / "blobs")
    (home / "store" / "blobs" / ENTRIES[2].sha256.hex()).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        store.has_blob(ENTRIES[2].sha256)


# --- releases


def test_installed_release_has_its_facts(store: Store, home: Path, installed: InstalledRelease) -> None:
    assert store.release(RELEASE.id) == installed
    assert (installed.id, installed.author, installed.name, installed.version, installed.created_at) == (
        RELEASE.id,
        KEY.pubkey,
        "demo",
        1,
        NOW,
    )
    assert installed.card == CARD
    assert installed.folder == home / "store" / "releases" / RELEASE.id.hex()
    assert [(file.path, file.role, file.size, file.sha256, file.chunks) for file in installed.files] == [
        (file.path, file.role, file.size, file.sha256, file.chunk_count) for file in ENTRIES
    ]
    assert installed.file("checkpoint").chunks == 4


def test_files_of_a_release_are_complete_and_read_only(installed: InstalledRelease) -> None:
    for role, data in FILES.items():
        local = installed.file(role).local_path
        assert local == installed.folder / f"{role}.bin"
        assert local.read_bytes() == data
        assert mode(local) == 0o444


def test_record_keeps_the_signed_event(installed: InstalledRelease) -> None:
    record = orjson.loads((installed.folder / "release.json").read_bytes())
    assert orjson.dumps(record["event"], option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        RELEASE.event.to_dict(), option=orjson.OPT_SORT_KEYS
    )
    assert (record["release"], record["format"]) == (RELEASE.id.hex(), "RGPT0003")


def visible(home: Path) -> list[str]:
    return [path.name for path in (home / "store" / "releases").iterdir() if not path.name.startswith(".")]


def test_install_without_all_blobs_installs_nothing(store: Store, home: Path) -> None:
    put(store, ENTRIES[0], FILES["checkpoint"])
    with pytest.raises(FileNotFoundError):
        store.install(RELEASE, MANIFEST)
    assert store.release(RELEASE.id) is None
    assert visible(home) == []
    fill(store)
    assert store.install(RELEASE, MANIFEST).file("config").local_path.read_bytes() == FILES["config"]
    assert [path.name for path in (home / "store" / "releases").iterdir()] == [RELEASE.id.hex()]


@pytest.mark.parametrize("name", ["link", "fsync", "replace", "rename"])
def test_failed_install_shows_nothing(store: Store, home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fill(store)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as broken:
        broken.setattr(os, name, fail)
        with pytest.raises(OSError, match="broken"):
            store.install(RELEASE, MANIFEST)
    assert store.release(RELEASE.id) is None
    assert visible(home) == []
    store.install(RELEASE, MANIFEST)
    assert visible(home) == [RELEASE.id.hex()]


def test_releases_share_blobs(home: Path, installed: InstalledRelease) -> None:
    blob = home / "store" / "blobs" / ENTRIES[0].sha256.hex()
    assert installed.file("checkpoint").local_path.samefile(blob)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK])
def test_files_are_copied_without_hard_links(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fill(store)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    local = store.install(RELEASE, MANIFEST).file("checkpoint").local_path
    assert local.read_bytes() == FILES["checkpoint"]
    assert mode(local) == 0o444
    assert not local.samefile(home / "store" / "blobs" / ENTRIES[0].sha256.hex())


def test_damaged_file_is_detected_and_repaired(store: Store, installed: InstalledRelease) -> None:
    assert store.is_intact(installed)
    damage(installed.file("checkpoint").local_path)
    assert not store.is_intact(installed)
    put(store, ENTRIES[0], FILES["checkpoint"])
    assert store.is_intact(store.install(RELEASE, MANIFEST))


def test_missing_file_is_detected(store: Store, installed: InstalledRelease) -> None:
    installed.file("config").local_path.unlink()
    assert not store.is_intact(installed)


NOT_JSON = [b"", b"{", b"\xff", b"damaged"]


NO_FILE = b'{"event":{"tags":[]},"release":"","author":"","name":"","version":1,"created_at":1,"card":{},"files":[1]}'


@pytest.mark.parametrize(
    "record", [*NOT_JSON, b"[]", b"{}", b"null", b'"x"', b'{"release": "zz"}', b'{"files": 1}', NO_FILE]
)
def test_damaged_record_is_reported(store: Store, installed: InstalledRelease, record: bytes) -> None:
    (installed.folder / "release.json").write_bytes(record)
    with pytest.raises(StoreError, match=r"release\.json: damaged"):
        store.release(RELEASE.id)
    with pytest.raises(StoreError, match=r"release\.json: damaged"):
        read_release(installed, RELEASE.created_at)


# --- disk space and locks


def test_disk_space_is_checked_first(store: Store) -> None:
    store.check_space(1)
    with pytest.raises(StoreError, match=r"disk full: .* bytes to fetch and 1,048,576 to keep free for records"):
        store.check_space(2**62)


async def test_release_lock_admits_one_holder(home: Path) -> None:
    async with Store(home).lock(RELEASE.id):
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(Store(home).lock_path(RELEASE.id)).acquire(timeout=0)
        async with Store(home).lock(bytes(32)):
            pass
    async with Store(home).lock(RELEASE.id):
        pass
