"""Part files: they survive a crash, and become blobs only when complete."""

import os
import stat
from hashlib import sha256
from pathlib import Path

import pytest

from distribution.errors import InvalidManifest
from distribution.manifest import FileEntry, Segment
from distribution.partial import HeaderRewrite, hashes_to
from distribution.store import Store

RELEASE, OTHER_RELEASE = b"\x01" * 32, b"\x02" * 32
DATA = bytes(range(256)) * 1_000
FILE = FileEntry(
    path="checkpoint.bin",
    role="checkpoint",
    size=len(DATA),
    sha256=sha256(DATA).digest(),
    segments=(Segment(name="weights", size=len(DATA), sha256=sha256(DATA).digest()),),
    references=bytes(64) * 6,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def parts(home: Path) -> list[Path]:
    return list((home / "store" / "partial").iterdir())


def test_new_part_file_is_sparse_and_full_length(store: Store, tmp_path: Path) -> None:
    with store.partial(RELEASE, FILE) as partial:
        assert partial.read(0, FILE.size + 1) == bytes(FILE.size)
    (part,) = parts(tmp_path)
    assert part.stat().st_size == FILE.size
    assert stat.S_IMODE(part.stat().st_mode) == 0o600


def test_part_file_is_resumed(tmp_path: Path) -> None:
    with Store(tmp_path).partial(RELEASE, FILE) as partial:
        partial.write(1_000, DATA[1_000:5_000])
    with Store(tmp_path).partial(RELEASE, FILE) as partial:
        assert partial.read(1_000, 4_000) == DATA[1_000:5_000]
        assert partial.read(5_000, 10) == bytes(10)
        partial.write(0, DATA[:1_000])
        partial.write(5_000, DATA[5_000:])
        Store(tmp_path).add_blob(partial)
    assert Store(tmp_path).has_blob(FILE.sha256)
    assert parts(tmp_path) == []


def test_two_releases_have_separate_part_files(store: Store) -> None:
    with store.partial(RELEASE, FILE) as one, store.partial(OTHER_RELEASE, FILE) as two:
        one.write(0, b"one")
        assert two.read(0, 3) == bytes(3)


@pytest.mark.parametrize("size", [0, 10, FILE.size + 10_000])
def test_part_file_of_another_length_is_resized(store: Store, tmp_path: Path, size: int) -> None:
    with store.partial(RELEASE, FILE):
        pass
    (part,) = parts(tmp_path)
    part.write_bytes(b"x" * size)
    with store.partial(RELEASE, FILE) as partial:
        assert part.stat().st_size == FILE.size
        partial.write(0, DATA)
        store.add_blob(partial)
    assert store.has_blob(FILE.sha256)


@pytest.mark.parametrize("wrong", [b"", DATA[:-1], DATA[:-1] + b"x", b"x" + DATA[1:]], ids=len)
def test_wrong_file_is_removed_and_not_stored(store: Store, tmp_path: Path, wrong: bytes) -> None:
    with store.partial(RELEASE, FILE) as partial:
        partial.write(0, wrong)
        with pytest.raises(InvalidManifest, match="the file that they make"):
            store.add_blob(partial)
    assert parts(tmp_path) == []
    assert not store.has_blob(FILE.sha256)


def test_linked_part_file_is_refused(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    with store.partial(RELEASE, FILE):
        pass
    (part,) = parts(tmp_path)
    part.unlink()
    part.symlink_to(mine)
    with pytest.raises(OSError, match="symbolic link"):
        store.partial(RELEASE, FILE)
    assert mine.read_bytes() == b"mine"


def test_short_write_is_continued(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:1_000], offset))
    with store.partial(RELEASE, FILE) as partial:
        partial.write(0, DATA)
        assert partial.read(0, FILE.size) == DATA


def test_allocated_size_grows_with_writes(store: Store) -> None:
    with store.partial(RELEASE, FILE) as partial:
        partial.write(0, DATA)
        assert partial.allocated_size >= FILE.size


def test_holes_are_reported_where_nothing_was_written(store: Store) -> None:
    with store.partial(RELEASE, FILE) as partial:
        assert partial.is_hole(0, FILE.size)
        partial.write(200_000, DATA[200_000:200_010])
        assert not partial.is_hole(200_000, 10)
        assert not partial.is_hole(0, FILE.size)
        assert partial.is_hole(0, 100_000)


def test_running_hash_covers_bytes_as_written(store: Store) -> None:
    with store.partial(RELEASE, FILE) as partial:
        partial.write(0, DATA[:100_000])
        partial.advance(100_000)
        partial.advance(50_000)  # never back
        partial.write(100_000, DATA[100_000:])
        store.add_blob(partial)
    assert store.has_blob(FILE.sha256)


def test_wrong_running_hash_stores_no_blob(store: Store) -> None:
    with store.partial(RELEASE, FILE) as partial:
        partial.write(0, bytes(100_000))
        partial.advance(100_000)
        partial.write(0, DATA)
        with pytest.raises(InvalidManifest, match="the file that they make"):
            store.add_blob(partial)
    assert not store.has_blob(FILE.sha256)


def test_closed_part_file_is_not_touched(store: Store) -> None:
    with store.partial(RELEASE, FILE) as partial:
        partial.write(0, DATA)
    partial.advance(FILE.size)  # a thread that was too late


def test_rewritten_file_is_stored_under_its_new_hash(store: Store, tmp_path: Path) -> None:
    with store.partial(RELEASE, FILE) as partial:
        partial.write(0, DATA)
        sha256_ = store.add_blob(partial, HeaderRewrite(size=3, apply=lambda start: start[::-1]))
    blob = tmp_path / "store" / "blobs" / sha256_.hex()
    assert blob.read_bytes() == bytes([2, 1, 0]) + DATA[3:]
    assert sha256_ == sha256(blob.read_bytes()).digest()
    assert hashes_to(blob, FILE.sha256, start=bytes([0, 1, 2]))
    assert not hashes_to(blob, FILE.sha256)


def test_rewritten_file_can_restore_its_part(store: Store, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"xyz" + DATA[3:2_000_000])
    with store.partial(RELEASE, FILE) as partial:
        partial.copy_from(tmp_path / "here", start=DATA[:3])
        assert partial.read(0, FILE.size) == DATA


def test_blob_is_synced_before_it_is_renamed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync")
        fsync(descriptor)

    def recording_replace(source: Path, target: Path) -> None:
        calls.append(f"replace {Path(target).name}")
        replace(source, target)

    with store.partial(RELEASE, FILE) as partial:
        partial.write(0, DATA)
        store.add_blob(partial)  # the folder of the blobs is there from now on
    with store.partial(RELEASE, FILE) as partial:
        partial.write(0, DATA)
        monkeypatch.setattr(os, "fsync", recording_fsync)
        monkeypatch.setattr(os, "replace", recording_replace)
        store.add_blob(partial)
    assert calls == ["fsync", f"replace {FILE.sha256.hex()}", "fsync folder"]
