"""Schema versions of the files in a home folder: old ones are read, newer ones are refused and never overwritten."""

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from support.release_store import ReleaseStore

from distribution.errors import NewerState, StoreError
from distribution.gc import Quota
from distribution.journal import Journal
from distribution.journal_schema import JOURNAL_VERSION
from distribution.seen_versions import SeenVersions
from distribution.state_file import StateFile
from distribution.store import Store
from distribution.trust_list import TrustStore
from relay_client.keys import SecretKey

KEY = SecretKey(bytes.fromhex("11" * 32))
AUTHOR, ID = KEY.pubkey, bytes([7]) * 32

# Files as the programs before schema versions wrote them.
UNVERSIONED: dict[str, dict[str, object]] = {
    "seen.json": {
        f"{AUTHOR.hex()}/demo": {"revoked": [], "settled": 2, "versions": {"2": [ID.hex(), "00" * 32]}},
    },
    "trust.json": {"authors": {AUTHOR.hex(): "alice"}, "policy": "allowlist"},
    "pins.json": {ID.hex(): 1_790_000_000},
    "quota.json": {"bytes": 5_000_000_000},
    "follow.json": {f"{AUTHOR.hex()}/demo": {"running": False}},
}
READ: dict[str, Callable[[Path], object]] = {
    "seen.json": lambda home: SeenVersions(home).seen(AUTHOR, "demo").highest == 2,
    "trust.json": lambda home: TrustStore(home).read().names == {AUTHOR: "alice"},
    "pins.json": lambda home: Store(home).pinned() == {ID},
    "quota.json": lambda home: Quota(home).read() == 5_000_000_000,
    "follow.json": lambda home: StateFile(home / "state" / "follow.json").read() == UNVERSIONED["follow.json"],
}


async def change_status(home: Path) -> None:
    async with StateFile(home / "state" / "follow.json").changing() as content:
        content["other"] = {}


CHANGE: dict[str, Callable[[Path], Awaitable[object]]] = {
    "seen.json": lambda home: SeenVersions(home).acknowledge(AUTHOR, "demo", 3),
    "trust.json": lambda home: TrustStore(home).set_mode("explicit"),
    "pins.json": lambda home: Store(home).pin(bytes(32)),
    "quota.json": lambda home: Quota(home).set(None),
    "follow.json": change_status,
}


def write(home: Path, name: str, **version: object) -> Path:
    path = home / "state" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(orjson.dumps({**UNVERSIONED[name], **version}))
    return path


@pytest.mark.parametrize("version", [{}, {"schema_version": 1}], ids=["without a version", "version 1"])
@pytest.mark.parametrize("name", UNVERSIONED)
async def test_state_file_of_version_1_is_read_and_changed(
    tmp_path: Path, name: str, version: dict[str, object]
) -> None:
    path = write(tmp_path, name, **version)
    before = path.read_bytes()
    assert READ[name](tmp_path)
    assert path.read_bytes() == before
    await CHANGE[name](tmp_path)
    assert "schema_version" not in orjson.loads(path.read_bytes())  # programs before versions still read it


@pytest.mark.parametrize("name", UNVERSIONED)
async def test_newer_state_file_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, schema_version=2)
    before = path.read_bytes()
    with pytest.raises(NewerState, match="update randygpt"):
        READ[name](tmp_path)
    with pytest.raises(NewerState, match="schema version 2"):
        await CHANGE[name](tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None, []])
def test_schema_version_must_be_a_whole_number(tmp_path: Path, version: object) -> None:
    write(tmp_path, "trust.json", schema_version=version)
    with pytest.raises(StoreError, match="damaged"):
        TrustStore(tmp_path).read()


def rewrite(path: Path, **changed: object) -> bytes:
    content = orjson.dumps(orjson.loads(path.read_bytes()) | changed)
    path.chmod(0o644)
    path.write_bytes(content)
    return content


def test_newer_release_record_is_refused(tmp_path: Path) -> None:
    releases = ReleaseStore(home=tmp_path, key=KEY)
    release = releases.install()
    path = releases.store.record_path(release.id)
    assert "schema_version" not in orjson.loads(path.read_bytes())
    rewrite(path, schema_version=1)
    assert releases.store.release(release.id) == release
    newer = rewrite(path, schema_version=2)
    for read in (lambda: releases.store.release(release.id), releases.store.releases):
        with pytest.raises(NewerState, match=r"release\.json: written by a newer version"):
            read()
    assert path.read_bytes() == newer


def test_newer_ref_is_not_replaced(tmp_path: Path) -> None:
    releases = ReleaseStore(home=tmp_path, key=KEY)
    first, second = releases.install(), releases.install()
    releases.store.activate(first.id)
    newer = rewrite(releases.store.current_path, schema_version=2)
    with pytest.raises(NewerState):
        releases.store.current()
    with pytest.raises(NewerState):
        releases.store.activate(second.id)
    assert releases.store.current_path.read_bytes() == newer


def user_version(path: Path, version: int | None = None) -> int:
    with closing(sqlite3.connect(path)) as database:
        if version is not None:
            database.execute(f"PRAGMA user_version = {version}")
        (found,) = database.execute("PRAGMA user_version").fetchone()
    return int(found)


def test_journal_without_a_version_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        record = journal.begin(AUTHOR, "demo", ID, above=0, created_at=100, card={}, hint="wss://a")
    assert user_version(path) == JOURNAL_VERSION
    user_version(path, 0)
    with Journal(path) as journal:
        found = journal.find(AUTHOR, "demo", ID)
    assert found is not None
    assert (found.version, found.hint) == (record.version, record.hint)
    assert user_version(path) == JOURNAL_VERSION


def test_newer_journal_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path):
        pass
    user_version(path, JOURNAL_VERSION + 1)
    before = path.read_bytes()
    with pytest.raises(NewerState, match=r"journal\.sqlite: written by a newer version"):
        Journal(path)
    assert path.read_bytes() == before
