"""The archive of a release's events."""

from pathlib import Path

import pytest

from distribution.errors import StoreError
from distribution.event_archive import EventArchive
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey

RELEASE = b"\1" * 32


@pytest.fixture
def archive(tmp_path: Path) -> EventArchive:
    return EventArchive(tmp_path)


def made(key: SecretKey, count: int) -> list[Event]:
    return [EventDraft(kind=1064, created_at=100, content=f"{number} 🧪").sign(key) for number in range(count)]


def log(archive: EventArchive, events: list[Event]) -> None:
    with archive.log(RELEASE) as signatures:
        for event in events:
            signatures.add(event.to_dict())


def test_events_round_trip(archive: EventArchive, key: SecretKey) -> None:
    events = made(key, 3)
    assert (archive.manifest(RELEASE), archive.head(RELEASE), archive.signatures(RELEASE)) == ([], None, {})
    archive.keep_manifest(RELEASE, events)
    archive.keep_head(RELEASE, events[1])
    assert (archive.manifest(RELEASE), archive.head(RELEASE)) == (events, events[1])


def test_signatures_continue_after_a_killed_run(archive: EventArchive, key: SecretKey) -> None:
    events = made(key, 4)
    log(archive, events[:2])
    path = archive.folder(RELEASE) / "signatures"
    path.write_bytes(path.read_bytes()[:-5])  # killed in the middle of a record
    log(archive, events[2:])
    assert archive.signatures(RELEASE) == {event.id: event.sig for event in (events[0], *events[2:])}


@pytest.mark.parametrize("text", [b"{", b"{}\n", b"[]\n"])
def test_damaged_archive_is_reported(archive: EventArchive, key: SecretKey, text: bytes) -> None:
    archive.keep_manifest(RELEASE, made(key, 1))
    (archive.folder(RELEASE) / "manifest.jsonl").write_bytes(text)
    with pytest.raises(StoreError, match=r"manifest\.jsonl: damaged"):
        archive.manifest(RELEASE)


def test_forged_signature_counts_as_damage(archive: EventArchive, key: SecretKey) -> None:
    (event,) = made(key, 1)
    archive.keep_head(RELEASE, event)
    path = archive.folder(RELEASE) / "head.json"
    path.write_bytes(path.read_bytes().replace(event.sig.hex().encode(), b"0" * 128))
    with pytest.raises(StoreError, match="signature"):
        archive.head(RELEASE)
