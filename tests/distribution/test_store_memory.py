"""What the store remembers: which release is current, and the highest versions seen."""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import filelock
import orjson
import pytest

from distribution.announcement import Release, Seen, release_draft
from distribution.errors import StoreError
from distribution.store import Store
from relay_client.keys import SecretKey

KEY = SecretKey(bytes.fromhex("11" * 32))
NOW = 1_790_000_000
NOT_JSON = [b"", b"{", b"\xff", b"damaged"]


def release(version: int = 1, *, name: str = "demo", manifest: bytes = b"") -> Release:
    draft = release_draft(
        manifest, [bytes(32)], name=name, version=version, format="x", size=1, card={}, hint="", created_at=NOW
    )
    return Release.parse(draft.sign(KEY), now=NOW)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home)


# --- which one is current


def ref(home: Path, name: str) -> bytes | None:
    path = home / "store" / "refs" / name
    return bytes.fromhex(orjson.loads(path.read_bytes())["release"]) if path.exists() else None


def test_activating_remembers_the_one_before(store: Store, home: Path) -> None:
    history = []
    for release_id in (b"\1" * 32, b"\2" * 32, b"\3" * 32, b"\2" * 32):
        store.activate(release_id)
        assert store.current() == release_id
        history.append(ref(home, "previous"))
    assert history == [None, b"\1" * 32, b"\2" * 32, b"\3" * 32]


def test_activating_the_same_again_touches_nothing(store: Store, home: Path) -> None:
    # A server that watches the file would load the model a second time.
    store.activate(b"\1" * 32)
    store.activate(b"\2" * 32)
    paths = [store.current_path, home / "store" / "refs" / "previous"]
    before = [path.stat() for path in paths]
    store.activate(b"\2" * 32)
    after = [path.stat() for path in paths]
    assert [(one.st_ino, one.st_mtime_ns) for one in before] == [(one.st_ino, one.st_mtime_ns) for one in after]


def test_activating_another_replaces_the_file_whole(store: Store) -> None:
    store.activate(b"\1" * 32)
    before = store.current_path.stat().st_ino
    with store.current_path.open("rb") as reader:
        store.activate(b"\2" * 32)
        assert orjson.loads(reader.read()) == {"release": "01" * 32}
    assert store.current_path.stat().st_ino != before


@pytest.mark.parametrize("text", [*NOT_JSON, b"{}", b"[]", b'"x"', b'{"release": 1}', b'{"release": "zz"}'])
def test_a_damaged_ref_is_reported(store: Store, text: bytes) -> None:
    store.activate(b"\1" * 32)
    store.current_path.write_bytes(text)
    with pytest.raises(StoreError, match="current: damaged"):
        store.current()


@pytest.mark.parametrize("text", [b'{"release": ""}', b'{"release": "0101"}'])
def test_a_ref_that_names_no_event_is_damaged(store: Store, text: bytes) -> None:
    store.activate(b"\1" * 32)
    store.current_path.write_bytes(text)
    with pytest.raises(StoreError, match="current: damaged"):
        store.current()


# --- what was seen


async def test_the_highest_version_is_remembered(store: Store, home: Path) -> None:
    for version, expected in [(1, 1), (5, 5), (3, 5), (5, 5), (6, 6), (1, 6)]:
        await store.record_seen(release(version, manifest=b"%d" % version))
        seen = Seen(version=expected, manifest_sha256=sha256(b"%d" % expected).digest())
        assert store.seen(KEY.pubkey, "demo") == seen
        assert Store(home).seen(KEY.pubkey, "demo") == seen


async def test_the_first_content_of_a_version_stays(store: Store) -> None:
    await store.record_seen(release(5, manifest=b"first"))
    await store.record_seen(release(5, manifest=b"second"))
    assert store.seen(KEY.pubkey, "demo") == Seen(version=5, manifest_sha256=sha256(b"first").digest())


async def test_each_author_and_name_is_remembered_alone(store: Store) -> None:
    await store.record_seen(release(5))
    await store.record_seen(release(2, name="other"))
    for author, name, version in [(KEY.pubkey, "demo", 5), (KEY.pubkey, "other", 2)]:
        seen = store.seen(author, name)
        assert seen is not None
        assert seen.version == version
    assert store.seen(bytes(32), "demo") is None
    assert store.seen(KEY.pubkey, "third") is None


async def test_nothing_is_lost_when_many_record_at_once(home: Path) -> None:
    await asyncio.gather(*(Store(home).record_seen(release(name=f"n{number}")) for number in range(10)))
    assert all(Store(home).seen(KEY.pubkey, f"n{number}") for number in range(10))


async def test_recording_waits_for_another_process(store: Store, home: Path) -> None:
    await store.record_seen(release(1))
    async with filelock.AsyncFileLock(home / "state" / "seen.lock"):
        waiting = asyncio.create_task(store.record_seen(release(2)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 0.05)
        assert store.seen(KEY.pubkey, "demo") == Seen(version=1, manifest_sha256=sha256(b"").digest())
    await store.record_seen(release(2))
    assert store.seen(KEY.pubkey, "demo") == Seen(version=2, manifest_sha256=sha256(b"").digest())


def broken_entry(change: Callable[[dict[str, object]], object]) -> bytes:
    inner: dict[str, object] = {"version": 5, "x": "00" * 32}
    change(inner)
    return orjson.dumps({f"{KEY.pubkey.hex()}/demo": inner})


@pytest.mark.parametrize(
    "text",
    [
        *NOT_JSON,
        b"[]",
        b"1",
        b"null",
        orjson.dumps({f"{KEY.pubkey.hex()}/demo": 5}),
        broken_entry(lambda inner: inner.pop("version")),
        broken_entry(lambda inner: inner.pop("x")),
        broken_entry(lambda inner: inner.update(version="five")),
        broken_entry(lambda inner: inner.update(version=None)),
        broken_entry(lambda inner: inner.update(x="zz")),
        broken_entry(lambda inner: inner.update(x=5)),
    ],
)
async def test_a_damaged_memory_is_reported_and_left_alone(store: Store, home: Path, text: bytes) -> None:
    # To start afresh would let an old version in.
    await store.record_seen(release())
    path = home / "state" / "seen.json"
    path.write_bytes(text)
    with pytest.raises(StoreError, match=r"seen\.json: damaged"):
        store.seen(KEY.pubkey, "demo")
    with pytest.raises(StoreError, match=r"seen\.json: damaged"):
        await store.record_seen(release(9))
    assert path.read_bytes() == text
