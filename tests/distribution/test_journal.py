"""The journal of publishes."""

import concurrent.futures
import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribution.chunk_signatures import ChunkSignatures
from distribution.errors import StoreError
from distribution.journal import Journal
from distribution.publish_record import PublishRecord, contents_digest

AUTHOR, OTHER_AUTHOR = b"\xaa" * 32, b"\xbb" * 32
ONE, TWO = b"\x01" * 32, b"\x02" * 32
CARD = {"config": {"n_embd": 16}, "text": "Grüße 🧪", "loss": 1.25, "none": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as opened:
        yield opened


@contextlib.contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file of the journal with another connection."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as opened:
        yield opened


def begin(
    journal: Journal,
    contents: bytes = ONE,
    *,
    author: bytes = AUTHOR,
    name: str = "demo",
    above: int = 0,
    created_at: int = 100,
) -> PublishRecord:
    return journal.begin(author, name, contents, above=above, created_at=created_at, card=CARD, hint="wss://a")


def test_new_journal_is_empty(journal: Journal) -> None:
    assert journal.find(AUTHOR, "demo", ONE) is None


def test_same_contents_find_the_same_record(journal: Journal) -> None:
    begun = begin(journal)
    assert begun == PublishRecord(version=1, created_at=100, card=CARD, hint="wss://a", resumed=False)
    assert journal.find(AUTHOR, "demo", ONE) == PublishRecord(
        version=1, created_at=100, card=CARD, hint="wss://a", resumed=True
    )


def test_tags_are_recorded(journal: Journal, path: Path) -> None:
    tags = (("title", "demo"), ("b", "00", "", "11", "base"))
    journal.begin(AUTHOR, "demo", ONE, above=0, created_at=100, card=CARD, hint="wss://a", tags=tags)
    found = journal.find(AUTHOR, "demo", ONE)
    assert found is not None
    assert found.tags == tags
    with database(path) as other:
        other.execute("UPDATE publishes SET tags = ?", ['[["name","other"]]'])
    with pytest.raises(StoreError, match="the tag name is set by the release itself"):
        journal.find(AUTHOR, "demo", ONE)


@pytest.mark.parametrize(
    ("author", "name", "contents"), [(OTHER_AUTHOR, "demo", ONE), (AUTHOR, "other", ONE), (AUTHOR, "demo", TWO)]
)
def test_other_contents_are_not_found(journal: Journal, author: bytes, name: str, contents: bytes) -> None:
    begin(journal)
    assert journal.find(author, name, contents) is None


def test_versions_increase_by_one(journal: Journal) -> None:
    assert [begin(journal, contents).version for contents in (ONE, TWO, ONE)] == [1, 2, 3]


def test_newest_of_equal_contents_is_found(journal: Journal) -> None:
    begin(journal, created_at=100)
    begin(journal, TWO, created_at=200)
    begin(journal, created_at=300)
    begin(journal, TWO, created_at=50)
    found = journal.find(AUTHOR, "demo", ONE)
    assert found is not None
    assert (found.version, found.created_at) == (3, 300)


@pytest.mark.parametrize(("above", "version"), [(0, 3), (1, 3), (2, 3), (3, 4), (41, 42), (2**31 - 2, 2**31 - 1)])
def test_version_is_above_journal_and_heads(journal: Journal, above: int, version: int) -> None:
    begin(journal)
    begin(journal)
    assert begin(journal, above=above).version == version


def test_each_author_and_name_has_its_own_versions(journal: Journal) -> None:
    begin(journal)
    begin(journal)
    assert begin(journal, author=OTHER_AUTHOR).version == 1
    assert begin(journal, name="other").version == 1
    assert begin(journal).version == 3


def test_journal_survives_reopening(path: Path) -> None:
    with Journal(path) as journal:
        begun = begin(journal)
    with Journal(path) as journal:
        found = journal.find(AUTHOR, "demo", ONE)
        assert found is not None
        assert (found.version, found.created_at, found.card, found.hint) == (
            begun.version,
            begun.created_at,
            begun.card,
            begun.hint,
        )
        assert begin(journal, TWO).version == 2


def test_record_is_on_disk_before_it_is_used(path: Path, journal: Journal) -> None:
    begin(journal)
    with database(path) as reader:
        assert reader.execute("SELECT version, created_at FROM publishes").fetchall() == [(1, 100)]
    (synchronous,) = journal._database.execute("PRAGMA synchronous").fetchone()
    assert synchronous >= 2  # FULL: also after a power loss


def test_two_open_journals_share_versions(path: Path) -> None:
    with Journal(path) as one, Journal(path) as two:
        assert [begin(journal).version for journal in (one, two, two, one)] == [1, 2, 3, 4]
        found = two.find(AUTHOR, "demo", ONE)
        assert found is not None
        assert found.version == 4


def test_two_writers_never_share_a_version(path: Path) -> None:
    def write() -> list[int]:
        with Journal(path) as journal:
            return [begin(journal).version for _ in range(20)]

    with Journal(path):
        pass
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        one, two = (running.result() for running in [threads.submit(write), threads.submit(write)])
    assert sorted(one + two) == list(range(1, 41))
    assert one == sorted(one)
    assert two == sorted(two)


def test_opening_waits_for_another_writer(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with database(path) as other:
        other.execute("CREATE TABLE something (else_)")
        other.execute("BEGIN IMMEDIATE")
        end = threading.Timer(0.05, other.execute, ["COMMIT"])
        end.start()
        try:
            with Journal(path) as journal:
                assert begin(journal).version == 1
        finally:
            end.join()


@pytest.mark.parametrize("damage", [b"damaged" * 1_000, b"SQLite format 3\0" + b"\xff" * 5_000])
def test_damaged_journal_is_reported(path: Path, damage: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    with pytest.raises(StoreError, match=r"journal\.sqlite"):
        Journal(path)
    assert path.read_bytes() == damage


def test_damage_to_an_open_journal_is_reported(path: Path, journal: Journal) -> None:
    with database(path) as other:
        other.execute("DROP TABLE publishes")
    with pytest.raises(StoreError, match=r"journal\.sqlite"):
        journal.find(AUTHOR, "demo", ONE)
    with pytest.raises(StoreError, match=r"journal\.sqlite"):
        begin(journal)


def test_journal_with_other_columns_is_reported(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with database(path) as other:
        other.execute("CREATE TABLE publishes (something)")
    with Journal(path) as journal, pytest.raises(StoreError, match=r"journal\.sqlite"):
        begin(journal)


def test_folder_instead_of_a_journal_is_reported(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match=r"journal\.sqlite"):
        Journal(path)


# --- signatures of chunks

SIGNATURES = ChunkSignatures(pubkey=b"\xcc" * 32, by_id={ONE: b"\x03" * 64, TWO: b"\x04" * 64})


def begin_signed(journal: Journal) -> PublishRecord:
    return journal.begin(
        AUTHOR, "demo", ONE, above=0, created_at=100, card=CARD, hint="wss://a", chunk_signatures=SIGNATURES
    )


def test_signatures_of_chunks_are_recorded(path: Path, journal: Journal) -> None:
    assert begin_signed(journal).chunk_author == SIGNATURES.pubkey
    begin_signed(journal)  # another version, signed by the same key
    with Journal(path) as other:
        found = other.find(AUTHOR, "demo", ONE)
        assert found is not None
        assert found.chunk_author == SIGNATURES.pubkey
        assert other.chunk_signatures(AUTHOR, "demo", found) == SIGNATURES


def test_publish_and_signatures_are_recorded_together(path: Path, journal: Journal) -> None:
    with database(path) as other:
        other.execute("ALTER TABLE publishes ADD COLUMN mood TEXT NOT NULL DEFAULT 'x' CHECK (mood <> 'x')")
        with pytest.raises(StoreError, match="CHECK"):
            begin_signed(journal)
        assert other.execute("SELECT count(*) FROM chunk_signatures").fetchone() == (0,)


@pytest.mark.parametrize("change", ["DELETE FROM chunk_signatures", "UPDATE chunk_signatures SET signatures = x'00'"])
def test_missing_or_damaged_signatures_are_reported(path: Path, journal: Journal, change: str) -> None:
    record = begin_signed(journal)
    with database(path) as other:
        other.execute(change)
    with pytest.raises(StoreError, match="signatures of a release's chunks"):
        journal.chunk_signatures(AUTHOR, "demo", record)


# --- digest of contents


def test_order_of_files_does_not_matter() -> None:
    files = [("a", ONE), ("b", TWO), ("c", ONE)]
    assert contents_digest(files) == contents_digest(files[::-1])


@pytest.mark.parametrize(
    "files",
    [
        [],
        [("a", ONE)],
        [("a", TWO), ("b", ONE)],
        [("a", ONE), ("c", TWO)],
        [("a", ONE), ("b", TWO), ("c", ONE)],
        [("ab", ONE), ("", TWO)],
    ],
)
def test_different_files_have_different_digests(files: list[tuple[str, bytes]]) -> None:
    assert contents_digest(files) != contents_digest([("a", ONE), ("b", TWO)])


def test_digest_of_contents_is_stable() -> None:
    # Records of older programs must be found.
    assert contents_digest([("b", TWO), ("a", ONE)]) == hashlib.sha256(b"a\0" + ONE + b"b\0" + TWO).digest()
