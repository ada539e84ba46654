"""NIP-01 messages: encoding, and parsing of valid, malformed and arbitrary frames."""

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay_client.errors import InvalidMessage
from relay_client.event import EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.messages import (
    AuthMessage,
    ClosedMessage,
    CountMessage,
    EoseMessage,
    EventMessage,
    NoticeMessage,
    OkMessage,
    RelayMessage,
    encode_auth,
    encode_close,
    encode_event,
    encode_req,
    parse_relay_message,
    reason_prefix,
)

ID = "ab" * 32
MESSAGES = (EventMessage, OkMessage, EoseMessage, ClosedMessage, NoticeMessage, AuthMessage, CountMessage)


def parse(*parts: object) -> RelayMessage | None:
    return parse_relay_message(orjson.dumps(parts))


def test_event_message_in_nip_01_form(key: SecretKey) -> None:
    event = EventDraft(kind=1, created_at=2, tags=(("x", "y"),), content="\n").sign(key)
    assert encode_event(event) == b'["EVENT",' + event.to_json() + b"]"
    assert encode_auth(event) == b'["AUTH",' + event.to_json() + b"]"


def test_req_and_close_messages() -> None:
    assert encode_req("r1", Filter(kinds=(1,), limit=2)) == b'["REQ","r1",{"kinds":[1],"limit":2}]'
    assert encode_close("r1") == b'["CLOSE","r1"]'


@pytest.mark.parametrize("raw_event", [{}, {"id": ID}, {"id": []}])
def test_event_is_parsed(raw_event: dict[str, object]) -> None:
    assert parse("EVENT", "r1", raw_event) == EventMessage(subscription_id="r1", raw_event=raw_event)


@pytest.mark.parametrize("accepted", [True, False])
def test_ok_is_parsed(*, accepted: bool) -> None:
    expected = OkMessage(event_id=bytes.fromhex(ID), accepted=accepted, text="blocked: no")
    assert parse("OK", ID, accepted, "blocked: no") == expected


@pytest.mark.parametrize("rest", [(), (None,), (1,), ({},), ("",)])
def test_ok_without_reason_is_parsed(rest: tuple[object, ...]) -> None:
    assert parse("OK", ID, True, *rest) == OkMessage(event_id=bytes.fromhex(ID), accepted=True, text="")


@pytest.mark.parametrize("rest", [(), ("more",)])
def test_eose_is_parsed(rest: tuple[object, ...]) -> None:
    assert parse("EOSE", "r1", *rest) == EoseMessage(subscription_id="r1")


@pytest.mark.parametrize(("rest", "text"), [((), ""), ((None,), ""), (("auth-required: who?",), "auth-required: who?")])
def test_closed_is_parsed(rest: tuple[object, ...], text: str) -> None:
    assert parse("CLOSED", "r1", *rest) == ClosedMessage(subscription_id="r1", text=text)


@pytest.mark.parametrize(("rest", "text"), [((), ""), ((1,), ""), (("slow down",), "slow down")])
def test_notice_is_parsed(rest: tuple[object, ...], text: str) -> None:
    assert parse("NOTICE", *rest) == NoticeMessage(text=text)


def test_text_and_binary_frames_are_equal() -> None:
    assert parse_relay_message('["NOTICE","ü"]') == parse_relay_message('["NOTICE","ü"]'.encode())


def test_auth_is_parsed() -> None:
    assert parse("AUTH", "x" * 1_024) == AuthMessage(challenge="x" * 1_024)


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("duplicate: have it", "duplicate"),
        ("rate-limited:", "rate-limited"),
        ("duplicate", "duplicate"),
        ("not a duplicate: of anything", ""),
        ("Blocked: no", ""),
        (": no", ""),
        ("", ""),
    ],
)
def test_reason_prefix_is_the_word_before_the_colon(reason: str, word: str) -> None:
    assert reason_prefix(reason) == word


@pytest.mark.parametrize(
    ("answer", "count"),
    [({"count": 3}, 3), ({"count": 3, "approximate": True}, None), ({"count": -1}, None), ({"count": True}, None)],
)
def test_count_is_an_exact_number(answer: object, count: int | None) -> None:
    assert parse("COUNT", "r1", answer) == CountMessage(subscription_id="r1", count=count)


@pytest.mark.parametrize("kind", ["NEG-MSG", "event", "", "EVENT "])
def test_unknown_type_is_ignored(kind: str) -> None:
    assert parse(kind, "challenge") is None
    assert parse(kind) is None


@pytest.mark.parametrize(
    "parts",
    [
        ("EVENT",),
        ("EVENT", "r1"),
        ("EVENT", {}),
        ("EVENT", 1, {}),
        ("EVENT", None, {}),
        ("EVENT", "r1", []),
        ("EVENT", "r1", "{}"),
        ("EVENT", "r1", {}, {}),
        ("OK",),
        ("OK", ID),
        ("OK", ID, 1),
        ("OK", ID, "true"),
        ("OK", ID, None),
        ("OK", ID.upper(), True),
        ("OK", ID[:-2], True),
        ("OK", "", True),
        ("OK", None, True),
        ("OK", [ID], True),
        ("EOSE",),
        ("EOSE", 1),
        ("EOSE", ["r1"]),
        ("CLOSED",),
        ("CLOSED", None),
        ("CLOSED", {"a": 1}, "x"),
        ("AUTH",),
        ("AUTH", 1),
        ("AUTH", "x" * 1_025),
        (),
        (1,),
        (None, "EVENT"),
        (["EVENT", "r1", {}],),
    ],
    ids=str,
)
def test_malformed_message_is_refused(parts: tuple[object, ...]) -> None:
    with pytest.raises(InvalidMessage):
        parse(*parts)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b" ",
        b"[",
        b'["EOSE"',
        b"{}",
        b'"EOSE"',
        b"1",
        b"null",
        b"true",
        b"\xff",
        b'["NOTICE","\xff"]',
        b'["NOTICE","a"] x',
        b"['NOTICE']",
        b'["NOTICE",NaN]',
        b"[" * 100_000,
        '["NOTICE","\ud800"]',
        '\ufeff["NOTICE"]',
    ],
    ids=lambda frame: ascii(frame[:20]),
)
def test_frame_without_message_is_refused(frame: str | bytes) -> None:
    with pytest.raises(InvalidMessage):
        parse_relay_message(frame)


@pytest.mark.parametrize("kind", ["NOTICE", "CLOSED", "OK"])
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\x1b[2J\x1b[31mred", " [2J [31mred"),
        ("a\r\nb\tc", "a  b c"),
        ("a\x00b\x7fc\x9bd", "a b c d"),
        ("line\u2028paragraph\u2029end", "line paragraph end"),
        ("abc\u202edcba\u200b", "abc dcba "),
        ("tschüß 🧪", "tschüß 🧪"),
        ("x" * 500, "x" * 200),
    ],
    ids=["escapes", "newlines", "controls", "separators", "bidi", "harmless", "long"],
)
def test_untrusted_text_is_safe_to_print(kind: str, said: str, shown: str) -> None:
    parts = {"NOTICE": ("NOTICE",), "CLOSED": ("CLOSED", "r1"), "OK": ("OK", ID, False)}[kind]
    message = parse(*parts, said)
    assert isinstance(message, NoticeMessage | ClosedMessage | OkMessage)
    assert message.text == shown


def taken(frame: str | bytes) -> RelayMessage | None:
    """Parse a frame; only a message, None or InvalidMessage may come out."""
    try:
        message = parse_relay_message(frame)
    except InvalidMessage:
        return None
    assert message is None or isinstance(message, MESSAGES)
    return message


@given(st.binary(max_size=200) | st.text(st.characters(), max_size=100))
def test_arbitrary_frame_is_parsed_or_refused(frame: str | bytes) -> None:
    taken(frame)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=10) | st.just(ID),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["EVENT", "OK", "EOSE", "CLOSED", "NOTICE", "AUTH", "COUNT"]), st.lists(json_values, max_size=4))
@example("NOTICE", ["\x85\u2066" * 300])
def test_arbitrary_fields_are_parsed_or_refused(kind: str, rest: list[object]) -> None:
    message = taken(orjson.dumps([kind, *rest]))
    text = getattr(message, "text", "")
    assert len(text) <= 200
    assert text.isprintable()


def test_refusal_without_an_event_id_has_the_relays_words() -> None:
    with pytest.raises(InvalidMessage, match="without an event id: invalid: too large"):
        parse("OK", "", False, "invalid: too large")
