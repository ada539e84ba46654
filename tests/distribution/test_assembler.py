"""Reassembly of files from chunk events."""

import dataclasses
import hashlib
import random
from collections.abc import Mapping, Sequence

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribution.assembler import Assembler
from distribution.chunking import encode, spans
from distribution.errors import InvalidChunk
from distribution.events import chunk_draft
from distribution.manifest import FileEntry, Segment
from relay_client.errors import InvalidEvent
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey

KEY = SecretKey(bytes.fromhex("11" * 32))
STRANGER = SecretKey(bytes.fromhex("22" * 32))
NOW = 1_790_000_000
CHUNK = 10  # bytes; small chunks keep the tests readable

RawEvent = Mapping[str, object]


def chunk_event(data: bytes, created_at: int = NOW) -> Event:
    return chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=created_at).sign(KEY)


def file_of(path: str, *parts: bytes) -> tuple[FileEntry, list[Event]]:
    """Return a file of these segments, and the events of its chunks."""
    data = b"".join(parts)
    events = [chunk_event(data[offset : offset + size]) for offset, size in spans([len(part) for part in parts], CHUNK)]
    role, names = ("other", ["data"]) if len(parts) == 1 else ("checkpoint", ["weights", "optimizer"])
    entry = FileEntry(
        path=path,
        role=role,
        size=len(data),
        sha256=hashlib.sha256(data).digest(),
        segments=tuple(
            Segment(name=name, size=len(part), sha256=hashlib.sha256(part).digest())
            for name, part in zip(names, parts, strict=True)
        ),
        references=b"".join(event.id + bytes.fromhex(event.tag_values("x")[0]) for event in events),
    )
    return entry, events


def assemble(files: Sequence[FileEntry], raw_events: Sequence[RawEvent]) -> tuple[Assembler, dict[str, bytes]]:
    """Offer all events, and write accepted bytes where they belong."""
    assembler = Assembler(files, CHUNK)
    written = {file.path: bytearray(file.size) for file in files}
    for raw_event in raw_events:
        data, places = assembler.offer(raw_event)
        for place in places:
            written[place.file.path][place.offset : place.offset + len(data)] = data
    return assembler, {path: bytes(data) for path, data in written.items()}


FILE, EVENTS = file_of("a", bytes(range(25)), bytes(range(100, 112)))
OTHER, OTHER_EVENTS = file_of("b", b"short")
RAW = [event.to_dict() for event in EVENTS]


def test_all_chunks_are_missing_at_first_in_order() -> None:
    assembler = Assembler([FILE, OTHER], CHUNK)
    assert assembler.missing == [event.id for event in EVENTS + OTHER_EVENTS]
    assert len(EVENTS) == 5
    assert Assembler([], CHUNK).missing == []


@given(st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_chunks_in_any_order_assemble_the_files(shuffler: random.Random) -> None:
    raw_events = [*RAW, OTHER_EVENTS[0].to_dict(), RAW[0], RAW[3]]
    shuffler.shuffle(raw_events)
    assembler, files = assemble([FILE, OTHER], raw_events)
    assert assembler.missing == []
    assert files == {"a": bytes(range(25)) + bytes(range(100, 112)), "b": b"short"}


def test_repeated_chunk_is_ignored() -> None:
    assembler = Assembler([FILE], CHUNK)
    data, places = assembler.offer(RAW[1])
    assert (data, [(place.file, place.offset) for place in places]) == (bytes(range(10, 20)), [(FILE, 10)])
    assert assembler.offer(RAW[1]) == (b"", [])
    assert EVENTS[1].id not in assembler.missing
    assert len(assembler.missing) == 4


@pytest.mark.parametrize("unrelated", [OTHER_EVENTS[0], chunk_event(bytes(range(10)), NOW + 1)])
def test_unrelated_chunk_is_ignored(unrelated: Event) -> None:
    # Not even the same bytes under another id: the manifest names ids.
    assembler = Assembler([FILE], CHUNK)
    assert assembler.offer(unrelated.to_dict()) == (b"", [])
    assert len(assembler.missing) == 5


def test_equal_chunks_share_one_event() -> None:
    file, events = file_of("zeros", bytes(25), bytes(10))
    twin, _ = file_of("twin", bytes(10))
    assert len({event.id for event in events}) == 2
    assembler = Assembler([file, twin], CHUNK)
    assert assembler.missing == [events[0].id, events[2].id]
    data, places = assembler.offer(events[0].to_dict())
    assert data == bytes(10)
    assert [(place.file.path, place.offset) for place in places] == [
        ("zeros", 0),
        ("zeros", 10),
        ("zeros", 25),
        ("twin", 0),
    ]
    assert assembler.missing == [events[2].id]


def test_file_listed_twice_is_filled_twice() -> None:
    copy = dataclasses.replace(FILE, path="copy")
    _, files = assemble([FILE, copy], RAW)
    assert files["a"] == files["copy"] == bytes(range(25)) + bytes(range(100, 112))


def forged(event: Event, **changes: object) -> RawEvent:
    return event.to_dict() | changes


@pytest.mark.parametrize(
    "changes",
    [{"content": "AAAA"}, {"content": ""}, {"kind": 1}, {"created_at": 1}, {"tags": []}, {"pubkey": "0" * 64}],
    ids=str,
)
def test_corrupted_chunk_is_refused_and_stays_missing(changes: dict[str, object]) -> None:
    assembler = Assembler([FILE], CHUNK)
    with pytest.raises(InvalidEvent, match="hash of the event"):
        assembler.offer(forged(EVENTS[0], **changes))
    assert assembler.missing == [event.id for event in EVENTS]
    assert assembler.offer(RAW[0])[0] == bytes(range(10))


@pytest.mark.parametrize("raw_id", [None, "", 1, [], {}, "zz", EVENTS[0].id.hex().upper(), EVENTS[0].id])
def test_event_with_malformed_id_is_refused(raw_id: object) -> None:
    assembler = Assembler([FILE], CHUNK)
    with pytest.raises(InvalidEvent):
        assembler.offer(forged(EVENTS[0], id=raw_id))
    with pytest.raises(InvalidEvent):
        assembler.offer({})
    assert len(assembler.missing) == 5


def test_chunk_named_by_the_manifest_needs_no_signature() -> None:
    assembler = Assembler([FILE], CHUNK)
    assert assembler.offer(forged(EVENTS[0], sig="0" * 128))[0] == bytes(range(10))


def naming(event: Event, data: bytes) -> FileEntry:
    """Return a file of one chunk with this content, which names this event for it."""
    digest = hashlib.sha256(data).digest()
    return FileEntry(
        path="a",
        role="other",
        size=len(data),
        sha256=digest,
        segments=(Segment(name="data", size=len(data), sha256=digest),),
        references=event.id + digest,
    )


@pytest.mark.parametrize(
    ("event", "wrong"),
    [
        (EventDraft(kind=1, created_at=NOW, content="aGVsbG8=").sign(KEY), "kind 1 is not a chunk"),
        (chunk_event(b"jello"), "do not match"),
        (chunk_event(b"hell"), "do not match"),
        (chunk_event(b"hello you"), "12 characters"),
        (EventDraft(kind=1064, created_at=NOW, content="aGVsbG8!").sign(KEY), "not base64"),
    ],
    ids=["kind", "other bytes", "too short", "too long", "not base64"],
)
def test_event_with_other_content_is_refused(event: Event, wrong: str) -> None:
    assembler = Assembler([naming(event, b"hello")], CHUNK)
    with pytest.raises(InvalidChunk, match=wrong):
        assembler.offer(event.to_dict())
    assert assembler.missing == [event.id]


def test_one_event_id_with_two_contents_is_refused() -> None:
    event = chunk_event(b"hello")
    with pytest.raises(InvalidChunk, match="two contents"):
        Assembler([naming(event, b"hello"), naming(event, b"jello")], CHUNK)
    with pytest.raises(InvalidChunk, match="two contents"):
        Assembler([naming(event, b"hello"), naming(event, b"hello you")], CHUNK)
    longer = dataclasses.replace(naming(event, b"hello you"), references=event.id + hashlib.sha256(b"hello").digest())
    with pytest.raises(InvalidChunk, match="two contents"):
        Assembler([naming(event, b"hello"), longer], CHUNK)
    assert Assembler([naming(event, b"hello"), naming(event, b"hello")], CHUNK).missing == [event.id]


def test_present_chunk_is_not_missing() -> None:
    assembler = Assembler([FILE], CHUNK)
    chunks = list(FILE.chunks(CHUNK))
    assembler.mark_present(chunks[0], FILE)
    assembler.mark_present(chunks[0], FILE)
    assert assembler.missing == [event.id for event in EVENTS[1:]]
    assert assembler.offer(RAW[0]) == (b"", [])
    for chunk in chunks[1:]:
        assembler.mark_present(chunk, FILE)
    assert assembler.missing == []


def test_marking_one_equal_chunk_leaves_the_others() -> None:
    file, events = file_of("zeros", bytes(20))
    twin, _ = file_of("twin", bytes(10))
    assembler = Assembler([file, twin], CHUNK)
    assembler.mark_present(list(file.chunks(CHUNK))[1], file)
    _, places = assembler.offer(events[0].to_dict())
    assert [(place.file.path, place.offset) for place in places] == [("zeros", 0), ("twin", 0)]
    assert assembler.missing == []


@given(
    st.dictionaries(
        st.sampled_from(["id", "pubkey", "created_at", "kind", "tags", "content", "sig"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=64) | st.lists(st.text(), max_size=2),
        min_size=1,
    )
)
def test_any_event_is_accepted_whole_or_refused(changes: dict[str, object]) -> None:
    assembler = Assembler([FILE], CHUNK)
    try:
        data, places = assembler.offer(forged(EVENTS[0], **changes))
    except (InvalidEvent, InvalidChunk):
        assert len(assembler.missing) == 5
    else:
        assert (data, len(places)) in {(bytes(range(10)), 1), (b"", 0)}


def copy_of(data: bytes, **changes: object) -> RawEvent:
    """Return another author's event with these bytes, its tags and content changed before signing."""
    made = chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=NOW + 5)
    return dataclasses.replace(made, **changes).sign(STRANGER).to_dict()  # type: ignore[arg-type]


def json_of(event: RawEvent) -> RawEvent:
    """Return the event as a relay sends it: with lists, not tuples."""
    return dict(orjson.loads(orjson.dumps(event)))


def test_copy_fills_every_place_with_those_bytes() -> None:
    file, events = file_of("a", b"0123456789", b"0123456789")
    twin, _ = file_of("b", b"0123456789")
    other = dataclasses.replace(twin, references=EVENTS[0].id + twin.references[32:])  # another event, the same bytes
    assembler = Assembler([file, other], CHUNK)
    assert assembler.missing_hashes == [hashlib.sha256(b"0123456789").digest()]
    data, places = assembler.offer_copy(json_of(copy_of(b"0123456789")))
    assert data == b"0123456789"
    assert [(place.file.path, place.offset) for place in places] == [("a", 0), ("a", 10), ("b", 0)]
    assert assembler.missing == []
    assert assembler.offer_copy(json_of(copy_of(b"0123456789"))) == (b"", [])
    assert len(events) == 2


def test_copy_is_found_by_its_x_tag() -> None:
    x = hashlib.sha256(bytes(range(10))).hexdigest()
    tags = (("expiration", "9999999999"), ("x",), ("x", x))
    assembler = Assembler([FILE], CHUNK)
    assert assembler.offer_copy(json_of(copy_of(bytes(range(10)), tags=tags)))[0] == bytes(range(10))


@pytest.mark.parametrize("tags", [(), (("x", "00" * 32),), (("X", "00"),)])
def test_copy_without_x_tag_is_ignored(tags: tuple[tuple[str, ...], ...]) -> None:
    assembler = Assembler([FILE], CHUNK)
    assert assembler.offer_copy(json_of(copy_of(bytes(range(10)), tags=tags))) == (b"", [])
    assert len(assembler.missing) == 5


@pytest.mark.parametrize(
    ("raw_copy", "wrong"),
    [
        (copy_of(bytes(range(10)), content="AAAA"), "characters"),
        (copy_of(bytes(range(10)), content=encode(bytes(10))), "do not match"),
        (copy_of(bytes(range(10)), kind=1), "kind 1"),
        ({**copy_of(bytes(range(10))), "content": encode(bytes(10))}, "hash of the event"),
    ],
    ids=["too short", "other bytes", "kind", "not its id"],
)
def test_copy_with_wrong_bytes_is_refused(raw_copy: RawEvent, wrong: str) -> None:
    assembler = Assembler([FILE], CHUNK)
    with pytest.raises((InvalidChunk, InvalidEvent), match=wrong):
        assembler.offer_copy(json_of(raw_copy))
    assert len(assembler.missing) == 5


@pytest.mark.parametrize("raw_tags", [None, "x", [["x", ["00"]]], [[]], [5], {}])
def test_copy_with_malformed_tags_is_ignored(raw_tags: object) -> None:
    assert Assembler([FILE], CHUNK).offer_copy({"tags": raw_tags}) == (b"", [])


def test_contiguous_size_ends_at_the_first_gap() -> None:
    assembler = Assembler([FILE, OTHER], CHUNK)
    assert (assembler.contiguous_size(FILE), assembler.missing_places) == (0, 6)
    for number, expected in ((1, 0), (0, 20), (3, 20), (2, 35), (4, FILE.size)):
        assembler.offer(RAW[number])
        assert assembler.contiguous_size(FILE) == expected
    assert (assembler.contiguous_size(OTHER), assembler.missing_places) == (0, 1)
