"""Garbage collection: what is removed, what is always kept, and the quota."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock
from support.releases import fetch, publish, tiny_sources, visible
from support.scripted_relay import ScriptedRelay

from distribution.errors import ChunksMissing, StoreError
from distribution.events import Release
from distribution.gc import GarbageCollector, Quota, disk_usage
from distribution.store import Store
from relay_client.keys import SecretKey


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
async def installed(scripted: ScriptedRelay, tmp_path: Path, store: Store, key: SecretKey) -> list[Release]:
    """Four releases, oldest first; the last two are previous and current. They share two of their three files."""
    made = []
    for seed in range(4):
        made.append((await publish([scripted.url], tmp_path / "author", key, tiny_sources(seed=seed))).release)
        await fetch([scripted.url], store.home, made[-1].id)
    return made


def ids(store: Store) -> set[bytes]:
    return {release.id for release in store.releases()}


def orphan(store: Store) -> Path:
    """A blob that no release needs."""
    path = store.folder / "blobs" / ("ef" * 32)
    path.write_bytes(b"orphan")
    return path


def all_intact(store: Store) -> bool:
    return not any(store.damaged_files(release) for release in store.releases())


def test_unused_releases_are_removed(store: Store, installed: list[Release]) -> None:
    before = disk_usage(store)
    gone = GarbageCollector(store).collect()
    assert ids(store) == {release.id for release in installed[2:]}
    assert all_intact(store)
    assert {item.release.id for item in gone if item.release} == {release.id for release in installed[:2]}
    freed = sum(item.bytes for item in gone)
    assert freed > 2 * 130_000
    assert before - disk_usage(store) >= freed
    assert len(list((store.folder / "blobs").iterdir())) == 2 + 2
    assert GarbageCollector(store).collect() == []


async def test_pinned_and_recent_releases_are_kept(store: Store, installed: list[Release]) -> None:
    await store.pin(installed[0].id)
    GarbageCollector(store).collect(keep=1)
    assert ids(store) == {installed[0].id, installed[2].id, installed[3].id}
    assert all_intact(store)


def test_keep_counts_from_the_latest_installed(store: Store, installed: list[Release]) -> None:
    GarbageCollector(store).collect(keep=3)
    assert ids(store) == {release.id for release in installed[1:]}


def test_dry_run_lists_the_same_and_removes_nothing(store: Store, installed: list[Release]) -> None:
    before = visible(store.home)
    would = GarbageCollector(store).collect(dry_run=True)
    assert visible(store.home) == before
    assert GarbageCollector(store).collect() == would
    assert len(installed) == 4


async def test_collection_spares_a_running_fetch(
    store: Store, installed: list[Release], scripted: ScriptedRelay
) -> None:
    GarbageCollector(store).collect()
    withheld = next(event_id for event_id in scripted.events if event_id in scripted.received[:3])
    event = scripted.events.pop(withheld)
    with pytest.raises(ChunksMissing):
        await fetch([scripted.url], store.home, installed[0].id)
    await store.pin(installed[3].id)
    await store.use(installed[2].id)
    partials = sorted((store.folder / "partial").iterdir())
    assert partials
    orphan(store)
    async with store.lock(installed[0].id):
        await asyncio.to_thread(GarbageCollector(store).collect, stale_s=0)
        assert sorted((store.folder / "partial").iterdir()) == partials
        assert len(list((store.folder / "blobs").iterdir())) == 4 + 1
    scripted.events[withheld] = event
    assert (await fetch([scripted.url], store.home, installed[0].id)).chunks.reused > 0


async def test_fetch_waits_for_a_running_collection(store: Store) -> None:
    async def begin() -> None:
        async with store.lock(bytes(32)):
            pass

    with FileLock(store.collection_lock):
        beginning = asyncio.create_task(begin())
        _, waiting = await asyncio.wait({beginning}, timeout=0.1)
        assert waiting == {beginning}
    await asyncio.wait_for(beginning, 60)


def test_unused_blob_is_removed_unless_a_fetch_reuses_it(store: Store, installed: list[Release]) -> None:
    blob = orphan(store)
    spared = [bytes.fromhex(blob.name)]
    GarbageCollector(store, during=installed[0].id, blobs=spared).collect()
    assert blob.exists()
    assert installed[0].id in ids(store)
    gone = GarbageCollector(store).collect(keep=9)
    assert [item.path for item in gone] == [blob]
    assert not blob.exists()


def test_interrupted_fetch_is_removed_after_a_day(store: Store, installed: list[Release]) -> None:
    partial = store.folder / "partial" / f"{'ab' * 32}-{'cd' * 32}.part"
    half = store.folder / "releases" / f".tmp-{'ab' * 32}"
    half.mkdir()
    partial.write_bytes(b"x" * 1_000)
    GarbageCollector(store).collect(keep=9)
    assert partial.exists()
    for path in (partial, half):
        os.utime(path, (time.time() - 90_000,) * 2)
    gone = GarbageCollector(store).collect(keep=9)
    assert {item.path for item in gone} == {partial, half}
    assert not partial.exists()
    assert not half.exists()
    assert ids(store) == {release.id for release in installed}


async def test_fetch_under_quota_removes_the_oldest_first(
    store: Store, installed: list[Release], scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    await Quota(store.home).set(disk_usage(store) + 10_000)
    fifth = (await publish([scripted.url], tmp_path / "author", key, tiny_sources(seed=5))).release
    await fetch([scripted.url], store.home, fifth.id)
    assert ids(store) == {release.id for release in [*installed[1:], fifth]}
    assert all_intact(store)


async def test_fetch_over_quota_is_refused(
    store: Store, installed: list[Release], scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    for release in installed:
        await store.pin(release.id)
    await Quota(store.home).set(disk_usage(store) + 10_000)
    fifth = (await publish([scripted.url], tmp_path / "author", key, tiny_sources(seed=5))).release
    before = visible(store.home)
    scripted.requests.clear()
    with pytest.raises(StoreError, match="exceeds the quota"):
        await fetch([scripted.url], store.home, fifth.id)
    assert {path for path, data in visible(store.home).items() if before.get(path) != data} <= {"state/seen.json"}
    asked = {event_id for wanted in scripted.requests for event_id in wanted.get("ids", [])}
    assert asked == {fifth.id.hex(), *(event_id.hex() for event_id in fifth.manifest_ids)}
    await Quota(store.home).set(None)
    await fetch([scripted.url], store.home, fifth.id)
    assert fifth.id in ids(store)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"bytes": "1"}', b'{"bytes": 0}', b'{"other": 1}'])
async def test_damaged_quota_is_reported(store: Store, text: bytes) -> None:
    await Quota(store.home).set(5)
    assert Quota(store.home).read() == 5
    (store.home / "state" / "quota.json").write_bytes(text)
    with pytest.raises(StoreError, match=r"quota\.json: damaged"):
        Quota(store.home).read()
