"""The blob store: quota, and what a crash leaves of a blob."""

import hashlib
import resource
import sqlite3
from pathlib import Path

import pytest

from relay_client.blossom.blob_limits import BlobLimits
from relay_client.blossom.blob_store import BlobStore, StoredBlob, StoreFull
from relay_client.errors import CallerError

OWNER, OTHER = b"\x01" * 32, b"\x02" * 32


def add(store: BlobStore, data: bytes, owner: bytes = OWNER, now: int = 5) -> StoredBlob:
    with store.receive(len(data)) as incoming:
        incoming.write(data)
        return incoming.keep(media_type="text/plain", owner=owner, now=now)


def test_room_is_reserved_and_released(tmp_path: Path) -> None:
    with BlobStore(tmp_path, BlobLimits(max_total_size=12)) as store:
        with store.receive(6), pytest.raises(StoreFull):
            store.receive(7)
        kept = add(store, b"123456")
        add(store, b"123456")  # counts once
        store.check_room(6)
        with pytest.raises(StoreFull):
            store.check_room(7)
        assert store.remove_owner(kept.sha256, OWNER)
        store.check_room(12)


def test_full_disk_releases_the_room(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with BlobStore(tmp_path, BlobLimits(max_total_size=12)) as store:
        incoming = store.receive(12)
        incoming.write(b"x" * 12)  # buffered
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
        try:
            with pytest.raises(OSError, match="File too large"), incoming:
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        store.check_room(12)
        assert list((tmp_path / "incoming").iterdir()) == []


def test_blob_without_a_record_is_removed(tmp_path: Path) -> None:
    with BlobStore(tmp_path, BlobLimits(max_total_size=12)) as store:
        other = sqlite3.connect(tmp_path / "blobs.sqlite")
        other.execute("CREATE TRIGGER full BEFORE INSERT ON blobs BEGIN SELECT RAISE(ABORT, 'full'); END")
        with pytest.raises(sqlite3.Error, match="full"):
            add(store, b"x" * 12)
        store.check_room(12)
        assert list((tmp_path / "blobs").iterdir()) == []
        other.execute("DROP TRIGGER full")
        other.close()
        add(store, b"x" * 12)


def test_number_of_blobs_is_limited(tmp_path: Path) -> None:
    with BlobStore(tmp_path, BlobLimits(max_blobs=1)) as store:
        add(store, b"a")
        with pytest.raises(StoreFull):
            store.receive(1)


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    with BlobStore(tmp_path, BlobLimits()) as store:
        kept, lost = add(store, b"kept"), add(store, b"lost")
    store.path(lost.sha256).unlink()
    unknown = store.path(hashlib.sha256(b"unknown").digest())
    unknown.write_bytes(b"unknown")
    (tmp_path / "incoming" / "half").write_bytes(b"half")
    for name in ("note.txt", "z" * 64):
        (tmp_path / "blobs" / name).write_bytes(b"note")
    for _ in range(2):
        with BlobStore(tmp_path, BlobLimits(max_total_size=8)) as store:
            assert store.find(kept.sha256) == kept
            assert store.find(lost.sha256) is None
            assert [path.name for path in (tmp_path / "blobs").iterdir()] == [kept.sha256.hex()]
            assert list((tmp_path / "incoming").iterdir()) == []
            store.check_room(4)


def test_owners_and_times_are_kept(tmp_path: Path) -> None:
    with BlobStore(tmp_path, BlobLimits()) as store:
        blob = add(store, b"x", OTHER, now=7)
        store.add_owner(blob.sha256, OWNER, 9)
        store.add_owner(blob.sha256, OTHER, 11)
        assert store.add_owner(bytes(32), OWNER, 9) is None
    with BlobStore(tmp_path, BlobLimits()) as store:
        found = store.find(blob.sha256)
        assert found is not None
        assert found.owners == {OTHER: 7, OWNER: 9}
        assert (found.uploaded, found.type) == (7, "text/plain")
        assert store.of_owner(OWNER) == [found]


@pytest.mark.parametrize("limits", [{"max_blob_size": 0}, {"max_uploads": 0}, {"types": frozenset({"Text/plain"})}])
def test_invalid_limits_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(CallerError):
        BlobLimits(**limits)  # type: ignore[arg-type]  # wrong on purpose
