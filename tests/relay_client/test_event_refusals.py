"""Input that never becomes an `Event`: forgeries, malformed fields and arbitrary JSON."""

import hashlib
from typing import Any

import coincurve
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_client.errors import InvalidEvent
from relay_client.event import Event, EventDraft, HashedEvent, decode_hex
from relay_client.keys import SecretKey

KEY = SecretKey(bytes.fromhex("11" * 32))
OTHER = SecretKey(bytes.fromhex("22" * 32))
DRAFT = EventDraft(kind=1064, created_at=1_790_000_000, tags=(("x", "abc"), ("t", "y")), content="hello")
SIGNED = DRAFT.sign(KEY)
RAW = orjson.loads(SIGNED.to_json())
FIELDS = ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70) | st.from_regex(r"[0-9a-f]{64}"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)

FORGERIES = {
    "id": "0" * 64,
    "pubkey": OTHER.pubkey.hex(),
    "created_at": RAW["created_at"] + 1,
    "kind": 4181,
    "tags": [["x", "abd"], ["t", "y"]],
    "content": "hellp",
    "sig": DRAFT.sign(OTHER).sig.hex(),
}


def rehashed(**changes: object) -> dict[str, Any]:
    """Return the event with changed fields and a matching id, which needs no key."""
    raw: dict[str, Any] = RAW | changes
    fields = [0, raw["pubkey"], raw["created_at"], raw["kind"], raw["tags"], raw["content"]]
    return raw | {"id": hashlib.sha256(orjson.dumps(fields)).hexdigest()}


@pytest.mark.parametrize("field", FIELDS)
def test_forged_field_is_refused(field: str) -> None:
    with pytest.raises(InvalidEvent):
        Event.parse(RAW | {field: FORGERIES[field]})


@pytest.mark.parametrize("field", ["pubkey", "created_at", "kind", "tags", "content"])
def test_forged_field_with_matching_id_is_refused(field: str) -> None:
    raw = rehashed(**{field: FORGERIES[field]})
    with pytest.raises(InvalidEvent, match="signature"):
        Event.parse(raw)
    assert HashedEvent.parse(raw).id.hex() == raw["id"]


@pytest.mark.parametrize("field", FIELDS)
def test_constructed_event_is_verified(field: str) -> None:
    fields = {name: getattr(SIGNED, name) for name in FIELDS}
    assert Event(**fields) == SIGNED
    forged = DRAFT.sign(OTHER) if field in {"id", "pubkey", "sig"} else EventDraft(kind=2, created_at=3).sign(KEY)
    with pytest.raises(InvalidEvent):
        Event(**fields | {field: getattr(forged, field)})


def test_hashed_event_accepts_any_signature() -> None:
    assert HashedEvent.parse(RAW | {"sig": "0" * 128}).sig == bytes(64)


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "sig"])
def test_hashed_event_refuses_a_wrong_id(field: str) -> None:
    with pytest.raises(InvalidEvent, match="hash"):
        HashedEvent.parse(RAW | {field: FORGERIES[field]})


@pytest.mark.parametrize("field", FIELDS)
def test_missing_field_is_refused(field: str) -> None:
    with pytest.raises(InvalidEvent):
        Event.parse({name: value for name, value in RAW.items() if name != field})


def test_unknown_fields_are_ignored() -> None:
    assert Event.parse(RAW | {"ots": "x", "relays": []}) == SIGNED


@pytest.mark.parametrize(("field", "length"), [("id", 64), ("pubkey", 64), ("sig", 128)])
def test_flipped_hex_digit_is_refused(field: str, length: int) -> None:
    text = RAW[field]
    assert len(text) == length
    for position, digit in enumerate(text):
        flipped = text[:position] + f"{int(digit, 16) ^ 1:x}" + text[position + 1 :]
        with pytest.raises(InvalidEvent):
            Event.parse(RAW | {field: flipped})


@pytest.mark.parametrize("field", ["id", "pubkey", "sig"])
@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text[:-1],
        lambda text: text[:-2],
        lambda text: text + "0",
        lambda text: text + "00",
        lambda text: " " + text[1:],
        lambda text: text[:-1] + "\n",
        lambda text: "0x" + text[2:],
        lambda text: text[:-1] + "٣",  # a digit for Python's int(), not for hex
        lambda text: text[:-1] + "g",
        lambda _text: "",
        bytes.fromhex,
        lambda text: [text],
        lambda text: int(text, 16),
        lambda _text: None,
    ],
)
def test_only_lower_case_hex_is_accepted(field: str, change: Any) -> None:  # noqa: ANN401
    raw = RAW | {field: change(RAW[field])}
    with pytest.raises(InvalidEvent, match="lower-case hex"):
        HashedEvent.parse(raw)


@pytest.mark.parametrize(
    ("text", "size"), [("ab", 2), ("abcd", 1), ("AB", 1), ("", 1), ("ab\n", 1), (None, 1), (b"ab", 1), ("a b ", 2)]
)
def test_decode_hex_refuses(text: object, size: int) -> None:
    with pytest.raises(InvalidEvent):
        decode_hex(text, size)


def test_decode_hex_returns_bytes() -> None:
    assert decode_hex("00ff", 2) == b"\x00\xff"


@pytest.mark.parametrize("field", ["created_at", "kind"])
@pytest.mark.parametrize("value", [True, False, -1, 1.0, "1", None, [1], 2**53, 2**64, 2**70, 10**400, float("nan")])
def test_only_integers_in_range_are_accepted(field: str, value: object) -> None:
    with pytest.raises(InvalidEvent, match=f"{field} is not an integer"):
        Event.parse(RAW | {field: value})


@pytest.mark.parametrize(
    ("kind", "created_at"),
    [(0, 0), (65_535, 2**53 - 1), (65_536, 0), (0, 2**53)],
    ids=["minimum", "maximum", "kind too large", "time too late"],
)
def test_limits_of_kind_and_time(kind: int, created_at: int) -> None:
    raw = rehashed(kind=kind, created_at=created_at)
    if kind <= 65_535 and created_at < 2**53:
        assert HashedEvent.parse(raw).kind == kind
    else:
        with pytest.raises(InvalidEvent, match="not an integer"):
            HashedEvent.parse(raw)


@pytest.mark.parametrize(
    "tags",
    [None, "x", {}, {"x": ["y"]}, ["x"], [["x"], "y"], [["x", 1]], [["x", None]], [["x", ["y"]]], [{"x": "y"}], [None]],
)
def test_only_lists_of_lists_of_text_are_tags(tags: object) -> None:
    with pytest.raises(InvalidEvent, match="tag"):
        Event.parse(rehashed(tags=tags))


@pytest.mark.parametrize("content", [None, 1, [], {}, b"hello", ["hello"]])
def test_only_text_is_content(content: object) -> None:
    with pytest.raises(InvalidEvent, match="content"):
        Event.parse(RAW | {"content": content})


@pytest.mark.parametrize("field", ["content", "tags"])
def test_lone_surrogate_is_refused(field: str) -> None:
    raw = RAW | {field: "\ud800" if field == "content" else [["x", "\ud800"]]}
    with pytest.raises(InvalidEvent, match="serialised"):
        Event.parse(raw)


@pytest.mark.parametrize("raw", [None, [], "{}", 1, True, b"{}", [RAW], {}])
def test_only_an_object_is_an_event(raw: object) -> None:
    with pytest.raises(InvalidEvent):
        Event.parse(raw)


@pytest.mark.parametrize(
    "x", [5, 2**256 - 1, 0, 2**256 - 2**32 - 977], ids=["off the curve", "maximum", "zero", "field prime"]
)
def test_pubkey_off_the_curve_is_refused(x: int) -> None:
    with pytest.raises(ValueError, match="public key"):
        coincurve.PublicKeyXOnly(x.to_bytes(32, "big"))
    with pytest.raises(InvalidEvent, match="signature"):
        Event.parse(rehashed(pubkey=f"{x:064x}"))


@given(json_values)
def test_arbitrary_json_is_refused(raw: object) -> None:
    with pytest.raises(InvalidEvent):
        Event.parse(raw)


@given(st.sampled_from(FIELDS), json_values)
def test_arbitrary_field_value_is_refused(field: str, value: object) -> None:
    raw = RAW | {field: value}
    try:
        event = Event.parse(raw)
    except InvalidEvent:
        assert raw != RAW
    else:
        assert event == SIGNED
