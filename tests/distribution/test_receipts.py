"""Receipts of relays, and incomplete ones."""

from pathlib import Path

from distribution.receipts import Receipts

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))
RELAY, OTHER = "wss://a.example", "wss://b.example"


def test_reading_receipts_creates_nothing(tmp_path: Path) -> None:
    assert Receipts(tmp_path / "receipts").accepted_by(RELAY) == frozenset()
    assert list(tmp_path.iterdir()) == []


def test_receipt_is_visible_to_other_processes_at_once(tmp_path: Path) -> None:
    with Receipts(tmp_path) as receipts, Receipts(tmp_path) as another:
        receipts.add(RELAY, ONE)
        another.add(RELAY, TWO)
        receipts.add(OTHER, THREE)
        assert Receipts(tmp_path).accepted_by(RELAY) == {ONE, TWO}
        assert Receipts(tmp_path).accepted_by(OTHER) == {THREE}


def test_forgotten_receipts_can_be_added_again(tmp_path: Path) -> None:
    with Receipts(tmp_path) as receipts:
        receipts.add(RELAY, ONE)
        receipts.add(OTHER, ONE)
        receipts.forget(RELAY)
        assert (receipts.accepted_by(RELAY), receipts.accepted_by(OTHER)) == (frozenset(), frozenset({ONE}))
        receipts.add(RELAY, TWO)
        receipts.forget("wss://never.example")
    assert Receipts(tmp_path).accepted_by(RELAY) == {TWO}


def test_incomplete_receipt_does_not_count(tmp_path: Path) -> None:
    with Receipts(tmp_path) as receipts:
        receipts.add(RELAY, ONE)
        receipts.add(RELAY, TWO)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert Receipts(tmp_path).accepted_by(RELAY) == {ONE}
