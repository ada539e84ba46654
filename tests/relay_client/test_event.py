"""Drafting and signing events: ids, signatures, sizes, and agreement with nostr-sdk (Rust)."""

import dataclasses
import hashlib
import json
from typing import Any

import nostr_sdk
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_client.errors import CallerError, InvalidEvent
from relay_client.event import Event, EventDraft, HashedEvent
from relay_client.keys import SecretKey

SECRET = bytes.fromhex("11" * 32)
KEY = SecretKey(SECRET)

HARD_TEXTS = {
    "empty": "",
    "control characters": "".join(map(chr, range(0x20))),
    "delete": "a\x7fb",
    "C1": "".join(map(chr, range(0x80, 0xA0))),
    "short escapes": "\b\f\n\r\t",
    "quotes and backslashes": 'say "hi" \\ \\" / \\u0041 \\n',
    "emoji": "👩‍🚀🧪",
    "astral": "\U0001d11e\U0010ffff",
    "line separators": "a\u2028b\u2029c",
    "byte order mark": "\ufeffa\ufeff",
    "not characters": "\ufffe\uffff",
    "not normalised": "e\u0301 \u00e9",
    "html": "<script>&amp;</script>",
}
hard_text = pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)


def draft(text: str = "hello") -> EventDraft:
    return EventDraft(kind=1064, created_at=1_790_000_000, tags=(("x", text), (text,), ()), content=text)


def sdk_id(made: EventDraft) -> str:
    """Return the id that nostr-sdk computes for a draft."""
    computed = nostr_sdk.EventId.compute(
        nostr_sdk.PublicKey.parse(KEY.pubkey.hex()),
        nostr_sdk.Timestamp.from_secs(made.created_at),
        nostr_sdk.Kind(made.kind),
        [nostr_sdk.Tag.parse(list(tag)) for tag in made.tags],
        made.content,
    )
    return str(computed.to_hex())


@hard_text
def test_id_equals_that_of_nostr_sdk(text: str) -> None:
    made = EventDraft(kind=1064, created_at=1_790_000_000, tags=(("x", text, "y"), ("e", text)), content=text)
    assert made.id_for(KEY.pubkey).hex() == sdk_id(made)


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 65_535), st.integers(0, 2**40))
def test_id_of_any_text_equals_that_of_nostr_sdk(content: str, value: str, kind: int, created_at: int) -> None:
    made = EventDraft(kind=kind, created_at=created_at, tags=(("x", value),), content=content)
    assert made.id_for(KEY.pubkey).hex() == sdk_id(made)


def test_id_is_hash_of_nip_01_serialization() -> None:
    made = EventDraft(kind=1, created_at=5, tags=(("e", "a", "b"),), content="a\nb")
    serialised = f'[0,"{KEY.pubkey.hex()}",5,1,[["e","a","b"]],"a\\nb"]'
    assert made.id_for(KEY.pubkey) == hashlib.sha256(serialised.encode()).digest()


@hard_text
def test_signed_event_verifies_in_nostr_sdk(text: str) -> None:
    made = EventDraft(kind=1064, created_at=1_790_000_000, tags=(("x", text),), content=text)
    event = made.sign(KEY)
    theirs = nostr_sdk.Event.from_json(event.to_json().decode())
    assert theirs.verify()
    assert theirs.id().to_hex() == event.id.hex()


@hard_text
def test_event_of_nostr_sdk_parses(text: str) -> None:
    theirs = (
        nostr_sdk.EventBuilder(nostr_sdk.Kind(4181), text)
        .tags([nostr_sdk.Tag.parse(["x", text])])
        .custom_created_at(nostr_sdk.Timestamp.from_secs(7))
        .finalize(nostr_sdk.Keys.parse(SECRET.hex()))
    )
    event = Event.parse(orjson.loads(theirs.as_json()))
    assert (event.kind, event.created_at, event.tags, event.content) == (4181, 7, (("x", text),), text)
    assert event.pubkey == KEY.pubkey


def test_signed_event_equals_its_draft() -> None:
    made = draft()
    event = made.sign(KEY)
    assert (event.kind, event.created_at, event.tags, event.content) == (
        made.kind,
        made.created_at,
        made.tags,
        made.content,
    )
    assert (event.id, event.pubkey, len(event.sig)) == (made.id_for(KEY.pubkey), KEY.pubkey, 64)


@hard_text
def test_signed_event_survives_json(text: str) -> None:
    event = draft(text).sign(KEY)
    assert Event.parse(orjson.loads(event.to_json())) == event
    assert Event.parse(json.loads(event.to_json())) == event


def test_json_has_the_fields_of_nip_01() -> None:
    event = draft().sign(KEY)
    assert json.loads(event.to_json()) == {
        "id": event.id.hex(),
        "pubkey": KEY.pubkey.hex(),
        "created_at": 1_790_000_000,
        "kind": 1064,
        "tags": [["x", "hello"], ["hello"], []],
        "content": "hello",
        "sig": event.sig.hex(),
    }
    assert b"\n" not in draft("a\nb").sign(KEY).to_json()


@hard_text
def test_size_is_known_before_signing(text: str) -> None:
    made = draft(text)
    assert made.signed_size == len(made.sign(KEY).to_json())


@given(
    st.integers(0, 65_535),
    st.integers(0, 2**53 - 1),
    st.lists(st.lists(st.text(max_size=5), max_size=3).map(tuple), max_size=4).map(tuple),
    st.text(max_size=30),
)
def test_size_of_any_draft_is_known(kind: int, created_at: int, tags: tuple[Any, ...], content: str) -> None:
    made = EventDraft(kind=kind, created_at=created_at, tags=tags, content=content)
    assert made.signed_size == len(made.sign(KEY).to_json())


def test_full_chunk_fits_into_65536_bytes() -> None:
    made = EventDraft(kind=1064, created_at=1_790_000_000, tags=(("x", "0" * 64),), content="A" * 61_440)
    assert made.signed_size <= 65_536


def test_draft_has_one_id_per_author(stranger: SecretKey) -> None:
    made = draft()
    assert made.sign(KEY).id == made.sign(KEY).id
    assert made.id_for(KEY.pubkey) != made.id_for(stranger.pubkey)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", -1),
        ("kind", 65_536),
        ("kind", True),
        ("kind", "1"),
        ("created_at", -1),
        ("created_at", 2**53),
        ("created_at", 1.5),
        ("tags", [["x", "y"]]),
        ("tags", (["x", "y"],)),
        ("tags", (("x", 1),)),
        ("tags", "x"),
        ("tags", (("x", "\ud800"),)),
        ("content", None),
        ("content", b"hello"),
        ("content", "\ud800"),
    ],
    ids=repr,
)
def test_invalid_draft_cannot_be_constructed(field: str, value: object) -> None:
    fields: dict[str, Any] = {"kind": 1, "created_at": 1, field: value}
    with pytest.raises(CallerError, match="no event can be made of this"):
        EventDraft(**fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", b"short"), ("id", "aa" * 32), ("pubkey", b""), ("sig", bytes(63)), ("kind", True), ("tags", [["x", "y"]])],
    ids=repr,
)
def test_invalid_event_cannot_be_constructed(field: str, value: object) -> None:
    fields: dict[str, Any] = EventDraft(kind=1, created_at=1, tags=(("x", "y"),)).sign(KEY).to_dict()
    fields |= {name: bytes.fromhex(fields[name]) for name in ("id", "pubkey", "sig")}
    HashedEvent(**fields)
    with pytest.raises(InvalidEvent):
        HashedEvent(**fields | {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", bytes(32)),
        ("pubkey", SecretKey(b"\x22" * 32).pubkey),
        ("created_at", 1),
        ("kind", 1),
        ("tags", ()),
        ("content", "other"),
        ("sig", bytes(64)),
    ],
)
def test_replaced_field_is_verified(field: str, value: Any) -> None:  # noqa: ANN401 (a field's type)
    event = draft().sign(KEY)
    with pytest.raises(InvalidEvent):
        dataclasses.replace(event, **{field: value})


def test_copy_of_an_event_is_equal() -> None:
    event = draft().sign(KEY)
    assert dataclasses.replace(event) == event


@pytest.mark.parametrize("field", ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"])
def test_event_is_immutable(field: str) -> None:
    event = draft().sign(KEY)
    before = event.to_json()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, field, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(event, field)
    assert event.to_json() == before


def test_event_has_no_dict() -> None:
    assert not hasattr(draft().sign(KEY), "__dict__")


def test_hashed_event_is_not_an_event() -> None:
    event = draft().sign(KEY)
    hashed = HashedEvent.parse(event.to_dict())
    assert not isinstance(hashed, Event)
    assert hashed.to_json() == event.to_json()


def test_tag_values_are_in_order() -> None:
    tags = (("e", "1", "hint"), ("x", "2"), ("e",), (), ("e", "3"), ("E", "4"))
    event = EventDraft(kind=1, created_at=1, tags=tags).sign(KEY)
    assert event.tag_values("e") == ["1", "3"]
    assert event.tag_values("absent") == []
