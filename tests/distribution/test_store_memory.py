"""Refs and pins of the store."""

from pathlib import Path

import orjson
import pytest

from distribution.errors import StoreError
from distribution.events import Release, release_draft
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


# --- refs


def ref(home: Path, name: str) -> bytes | None:
    path = home / "store" / "refs" / name
    return bytes.fromhex(orjson.loads(path.read_bytes())["release"]) if path.exists() else None


def test_activate_remembers_the_previous_release(store: Store, home: Path) -> None:
    history = []
    for release_id in (b"\1" * 32, b"\2" * 32, b"\3" * 32, b"\2" * 32):
        store.activate(release_id)
        assert store.current() == release_id
        history.append(ref(home, "previous"))
    assert history == [None, b"\1" * 32, b"\2" * 32, b"\3" * 32]


def test_activating_the_current_release_changes_nothing(store: Store, home: Path) -> None:
    # A server that watches the file would load the model a second time.
    store.activate(b"\1" * 32)
    store.activate(b"\2" * 32)
    paths = [store.current_path, home / "store" / "refs" / "previous"]
    before = [path.stat() for path in paths]
    store.activate(b"\2" * 32)
    after = [path.stat() for path in paths]
    assert [(one.st_ino, one.st_mtime_ns) for one in before] == [(one.st_ino, one.st_mtime_ns) for one in after]


def test_activate_replaces_the_ref_atomically(store: Store) -> None:
    store.activate(b"\1" * 32)
    before = store.current_path.stat().st_ino
    with store.current_path.open("rb") as reader:
        store.activate(b"\2" * 32)
        assert orjson.loads(reader.read()) == {"release": "01" * 32}
    assert store.current_path.stat().st_ino != before


@pytest.mark.parametrize("text", [*NOT_JSON, b"{}", b"[]", b'"x"', b'{"release": 1}', b'{"release": "zz"}'])
def test_damaged_ref_is_reported(store: Store, text: bytes) -> None:
    store.activate(b"\1" * 32)
    store.current_path.write_bytes(text)
    with pytest.raises(StoreError, match="current: damaged"):
        store.current()


@pytest.mark.parametrize("text", [b'{"release": ""}', b'{"release": "0101"}'])
def test_ref_without_an_id_is_damaged(store: Store, text: bytes) -> None:
    store.activate(b"\1" * 32)
    store.current_path.write_bytes(text)
    with pytest.raises(StoreError, match="current: damaged"):
        store.current()


async def test_used_release_is_current(store: Store) -> None:
    await store.seen_versions.record(release(3))
    await store.use(b"\1" * 32)
    assert store.current() == b"\1" * 32
    assert store.seen_versions.seen(KEY.pubkey, "demo").acknowledged == 3


# --- pins


async def test_pins_are_added_and_removed(store: Store, home: Path) -> None:
    assert store.pinned() == frozenset()
    for release_id in (b"\1" * 32, b"\2" * 32, b"\1" * 32):
        await store.pin(release_id)
    assert Store(home).pinned() == {b"\1" * 32, b"\2" * 32}
    await store.pin(b"\1" * 32, pinned=False)
    await store.pin(b"\3" * 32, pinned=False)
    assert Store(home).pinned() == {b"\2" * 32}


@pytest.mark.parametrize("text", [*NOT_JSON, b"[]", b'{"0101": 1}'])
async def test_damaged_pins_are_reported(store: Store, home: Path, text: bytes) -> None:
    await store.pin(b"\1" * 32)
    (home / "state" / "pins.json").write_bytes(text)
    with pytest.raises(StoreError, match=r"pins\.json: damaged"):
        store.pinned()
