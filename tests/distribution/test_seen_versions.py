"""Seen versions: what was seen, revoked and acknowledged."""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import filelock
import orjson
import pytest

from distribution.errors import StoreError
from distribution.events import Release, release_draft
from distribution.seen_versions import Seen, SeenVersion, SeenVersions
from relay_client.keys import SecretKey

KEY = SecretKey(bytes.fromhex("11" * 32))
NOW = 1_790_000_000


def release(version: int = 1, *, name: str = "demo", manifest: bytes = b"") -> Release:
    draft = release_draft(
        manifest, [bytes(32)], name=name, version=version, format="x", size=1, card={}, hint="", created_at=NOW
    )
    return Release.parse(draft.sign(KEY), now=NOW)


def seen_version(made: Release) -> SeenVersion:
    return SeenVersion(release_id=made.id, manifest_sha256=made.manifest_sha256)


@pytest.fixture
def versions(tmp_path: Path) -> SeenVersions:
    return SeenVersions(tmp_path)


async def test_all_seen_versions_are_remembered(versions: SeenVersions, tmp_path: Path) -> None:
    made = {version: release(version, manifest=b"%d" % version) for version in (1, 5, 3, 6)}
    for each in made.values():
        await versions.record(each)
    seen = SeenVersions(tmp_path).seen(KEY.pubkey, "demo")
    assert seen.versions == {version: seen_version(each) for version, each in made.items()}
    assert seen.highest == 6
    assert seen.versions[5].manifest_sha256 == sha256(b"5").digest()


async def test_highest_of_many_versions_are_remembered(versions: SeenVersions, tmp_path: Path) -> None:
    await versions.record(release(1))
    path = tmp_path / "state" / "seen.json"
    content = orjson.loads(path.read_bytes())
    entry = next(iter(content.values()))
    entry["versions"] = {str(version): entry["versions"]["1"] for version in range(1, 201)}
    path.write_bytes(orjson.dumps(content))
    await versions.record(release(201))
    assert sorted(versions.seen(KEY.pubkey, "demo").versions) == list(range(102, 202))


async def test_first_content_of_a_version_stays(versions: SeenVersions) -> None:
    first = release(5, manifest=b"first")
    await versions.record(first)
    await versions.record(release(5, manifest=b"second"))
    assert versions.seen(KEY.pubkey, "demo").versions == {5: seen_version(first)}


async def test_revoked_version_can_be_published_again(versions: SeenVersions, tmp_path: Path) -> None:
    bad, good = release(5, manifest=b"bad"), release(5, manifest=b"good")
    await versions.record(release(4))
    await versions.record(bad)
    await versions.acknowledge_all()
    await versions.revoke(KEY.pubkey, "demo", {bad.id})
    seen = SeenVersions(tmp_path).seen(KEY.pubkey, "demo")
    assert (seen.highest, seen.revoked, seen.acknowledged) == (4, frozenset({bad.id}), 4)
    await versions.record(good)
    assert versions.seen(KEY.pubkey, "demo").versions[5] == seen_version(good)
    assert versions.seen(KEY.pubkey, "demo").revoked == {bad.id}


async def test_each_author_and_name_is_separate(versions: SeenVersions) -> None:
    await versions.record(release(5))
    await versions.record(release(2, name="other"))
    assert versions.seen(KEY.pubkey, "demo").highest == 5
    assert versions.seen(KEY.pubkey, "other").highest == 2
    assert versions.seen(bytes(32), "demo") == versions.seen(KEY.pubkey, "third") == Seen()


async def test_users_choice_acknowledges_all_seen_versions(versions: SeenVersions, tmp_path: Path) -> None:
    await versions.acknowledge_all()
    assert not (tmp_path / "state").exists()
    await versions.record(release(5))
    await versions.record(release(2, name="other"))
    assert versions.seen(KEY.pubkey, "demo").acknowledged == 0
    await versions.acknowledge(KEY.pubkey, "demo", 5)
    await versions.record(release(6))
    assert versions.seen(KEY.pubkey, "demo").acknowledged == 5
    await versions.acknowledge_all()
    assert (versions.seen(KEY.pubkey, "demo").acknowledged, versions.seen(KEY.pubkey, "other").acknowledged) == (6, 2)


async def test_concurrent_records_lose_nothing(tmp_path: Path) -> None:
    await asyncio.gather(*(SeenVersions(tmp_path).record(release(name=f"n{number}")) for number in range(10)))
    assert all(SeenVersions(tmp_path).seen(KEY.pubkey, f"n{number}").highest for number in range(10))


async def test_record_waits_for_another_process(versions: SeenVersions, tmp_path: Path) -> None:
    await versions.record(release(1))
    async with filelock.AsyncFileLock(tmp_path / "state" / "seen.lock"):
        waiting = asyncio.create_task(versions.record(release(2)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 0.05)
        assert versions.seen(KEY.pubkey, "demo").highest == 1
    await versions.record(release(2))
    assert versions.seen(KEY.pubkey, "demo").highest == 2


def broken_entry(change: Callable[[dict[str, Any]], object]) -> bytes:
    inner: dict[str, Any] = {"versions": {"5": ["00" * 32, "00" * 32]}, "revoked": [], "settled": 0}
    change(inner)
    return orjson.dumps({f"{KEY.pubkey.hex()}/demo": inner})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"damaged",
        b"[]",
        b"1",
        b"null",
        orjson.dumps({f"{KEY.pubkey.hex()}/demo": 5}),
        *(broken_entry(lambda inner, key=key: inner.pop(key)) for key in ("versions", "revoked", "settled")),  # type: ignore[misc]
        broken_entry(lambda inner: inner.update(versions={"five": ["00" * 32, "00" * 32]})),
        broken_entry(lambda inner: inner.update(versions={"5": ["00" * 32]})),
        broken_entry(lambda inner: inner.update(versions={"5": ["00", "00" * 32]})),
        broken_entry(lambda inner: inner.update(versions=[5])),
        broken_entry(lambda inner: inner.update(revoked=["zz"])),
        broken_entry(lambda inner: inner.update(settled="5")),
    ],
)
async def test_damaged_file_is_reported_and_kept(versions: SeenVersions, tmp_path: Path, text: bytes) -> None:
    # An empty file would let an old version in.
    await versions.record(release())
    path = tmp_path / "state" / "seen.json"
    path.write_bytes(text)
    for attempt in (
        versions.record(release(9)),
        versions.acknowledge_all(),
        versions.acknowledge(KEY.pubkey, "demo", 1),
    ):
        with pytest.raises(StoreError, match=r"seen\.json: damaged"):
            await attempt
    with pytest.raises(StoreError, match=r"seen\.json: damaged"):
        versions.seen(KEY.pubkey, "demo")
    assert path.read_bytes() == text
