"""Session state machine: events in flight, requests, authentication and floods."""

from collections.abc import Iterator

import orjson
import pytest

from relay_client.errors import CallerError, InvalidMessage
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.outcomes import (
    AuthAnswered,
    AuthRequested,
    EventReceived,
    NoticeReceived,
    OkReceived,
    Outcome,
    RequestClosed,
    StoredEventsSent,
    Verdict,
)
from relay_client.session import Session

KEY = SecretKey(bytes.fromhex("11" * 32))
ID, OTHER_ID = b"\xaa" * 32, b"\xbb" * 32


def events(content: str = "") -> Iterator[Event]:
    """Generate distinct events."""
    number = 0
    while True:
        yield EventDraft(kind=1, created_at=number, content=content).sign(KEY)
        number += 1


def receive(session: Session, *parts: object) -> Outcome | None:
    return session.receive(orjson.dumps(parts))


def ok(session: Session, event: Event, *, accepted: bool = True, text: str = "") -> Outcome | None:
    return receive(session, "OK", event.id.hex(), accepted, text)


def open_request(*ids: bytes, limit: int = 2) -> tuple[Session, str]:
    session = Session()
    subscription_id, _ = session.subscribe(Filter(ids=ids, limit=limit))
    return session, subscription_id


# --- sending events


def test_sent_event_is_counted() -> None:
    session, event = Session(), next(events())
    assert orjson.loads(session.publish(event)) == ["EVENT", orjson.loads(event.to_json())]
    assert session.unacknowledged == 1


def test_at_most_eight_unacknowledged_events() -> None:
    session, source = Session(), events()
    sent = []
    while session.has_room:
        sent.append(next(source))
        session.publish(sent[-1])
    assert len(sent) == session.unacknowledged == 8
    with pytest.raises(CallerError):
        session.publish(next(source))
    ok(session, sent[3])
    assert session.unacknowledged == 7
    session.publish(next(source))
    assert not session.has_room


def test_at_most_four_mebibytes_unacknowledged() -> None:
    session, source = Session(), events("x" * (1 << 20))
    sent = [next(source) for _ in range(4)]
    for event in sent[:3]:
        session.publish(event)
        assert session.has_room
    session.publish(sent[3])
    assert not session.has_room
    with pytest.raises(CallerError):
        session.publish(next(source))
    ok(session, sent[0])
    assert session.has_room


def test_answers_free_their_bytes() -> None:
    session, source = Session(), events("x" * (1 << 20))
    for _ in range(20):
        event = next(source)
        session.publish(event)
        ok(session, event, accepted=False)
        assert session.unacknowledged == 0
    for _ in range(4):
        assert session.has_room
        session.publish(next(source))


def test_event_in_flight_is_not_sent_again() -> None:
    session, event = Session(), next(events())
    session.publish(event)
    with pytest.raises(CallerError):
        session.publish(event)
    ok(session, event)
    session.publish(event)
    assert session.unacknowledged == 1


@pytest.mark.parametrize(
    ("said", "text", "verdict"),
    [
        (True, "", Verdict.ACCEPTED),
        (True, "stored", Verdict.ACCEPTED),
        (True, "duplicate: have it", Verdict.DUPLICATE),
        (False, "duplicate: have it", Verdict.DUPLICATE),
        (False, "duplicate", Verdict.DUPLICATE),
        (True, "rate-limited: but this one is in", Verdict.ACCEPTED),
        (False, "rate-limited: slow down", Verdict.RATE_LIMITED),
        (False, "auth-required: who?", Verdict.AUTH_REQUIRED),
        (False, "error: disk on fire", Verdict.FAILED),
        (False, "blocked: no", Verdict.REFUSED),
        (False, "restricted: members only", Verdict.REFUSED),
        (False, "invalid: too large", Verdict.REFUSED),
        (False, "pow: 25 bits", Verdict.REFUSED),
        (False, "not a duplicate: of anything", Verdict.REFUSED),
        (False, "", Verdict.REFUSED),
    ],
)
def test_ok_maps_to_a_verdict(*, said: bool, text: str, verdict: Verdict) -> None:
    session, event = Session(), next(events())
    session.publish(event)
    assert ok(session, event, accepted=said, text=text) == OkReceived(event_id=event.id, verdict=verdict, reason=text)
    assert session.unacknowledged == 0


def test_unexpected_ok_is_ignored() -> None:
    session, source = Session(), events()
    first, second = next(source), next(source)
    session.publish(first)
    session.publish(second)
    assert ok(session, first) is not None
    assert ok(session, first) is None
    assert receive(session, "OK", "cc" * 32, True, "") is None
    assert session.unacknowledged == 1


# --- requests


def test_subscribe_and_unsubscribe_frames() -> None:
    session = Session()
    subscription_id, frame = session.subscribe(Filter(kinds=(1,), limit=2))
    assert orjson.loads(frame) == ["REQ", subscription_id, {"kinds": [1], "limit": 2}]
    assert orjson.loads(session.unsubscribe(subscription_id) or b"") == ["CLOSE", subscription_id]


def test_subscription_ids_are_unique() -> None:
    session, used = Session(), set()
    for _ in range(50):
        subscription_id, _ = session.subscribe(Filter(limit=1))
        used.add(subscription_id)
        session.unsubscribe(subscription_id)
    assert len(used) == 50
    assert all(0 < len(subscription_id) <= 64 for subscription_id in used)  # NIP-01's limit


def test_requested_event_is_passed_on_unchecked() -> None:
    session, subscription_id = open_request(ID)
    raw_event = {"id": ID.hex(), "kind": "nonsense"}
    assert receive(session, "EVENT", subscription_id, raw_event) == EventReceived(
        subscription_id=subscription_id, raw_event=raw_event
    )


@pytest.mark.parametrize("raw_id", [OTHER_ID.hex(), ID.hex().upper(), "", None, 1, [], {}, [ID.hex()]], ids=repr)
def test_event_with_other_id_is_dropped(raw_id: object) -> None:
    session, subscription_id = open_request(ID)
    assert receive(session, "EVENT", subscription_id, {"id": raw_id}) is None


def test_event_without_id_is_dropped() -> None:
    session, subscription_id = open_request(ID)
    assert receive(session, "EVENT", subscription_id, {}) is None


def test_request_without_ids_accepts_any_event() -> None:
    session, subscription_id = open_request()
    assert isinstance(receive(session, "EVENT", subscription_id, {"id": OTHER_ID.hex()}), EventReceived)


@pytest.mark.parametrize("stranger", ["r2", "", "R1"])
def test_event_for_other_subscription_is_dropped(stranger: str) -> None:
    session, subscription_id = open_request(ID)
    assert stranger != subscription_id
    assert receive(session, "EVENT", stranger, {"id": ID.hex()}) is None


def test_events_beyond_the_limit_are_dropped() -> None:
    session, subscription_id = open_request(ID, OTHER_ID, limit=2)
    for _ in range(2):
        assert isinstance(receive(session, "EVENT", subscription_id, {"id": ID.hex()}), EventReceived)
    assert receive(session, "EVENT", subscription_id, {"id": OTHER_ID.hex()}) is None


def test_dropped_event_does_not_count_towards_limit() -> None:
    session, subscription_id = open_request(ID, limit=1)
    assert receive(session, "EVENT", subscription_id, {"id": OTHER_ID.hex()}) is None
    assert isinstance(receive(session, "EVENT", subscription_id, {"id": ID.hex()}), EventReceived)


def test_limits_and_ids_are_per_subscription() -> None:
    session, first = open_request(ID, limit=1)
    second, _ = session.subscribe(Filter(ids=(OTHER_ID,), limit=1))
    assert receive(session, "EVENT", second, {"id": ID.hex()}) is None
    assert isinstance(receive(session, "EVENT", first, {"id": ID.hex()}), EventReceived)
    assert isinstance(receive(session, "EVENT", second, {"id": OTHER_ID.hex()}), EventReceived)


def test_eose_leaves_the_subscription_open() -> None:
    session, subscription_id = open_request(ID)
    assert receive(session, "EOSE", subscription_id) == StoredEventsSent(subscription_id=subscription_id)
    assert isinstance(receive(session, "EVENT", subscription_id, {"id": ID.hex()}), EventReceived)
    assert session.unsubscribe(subscription_id) is not None


def test_closed_ends_the_subscription() -> None:
    session, subscription_id = open_request(ID)
    expected = RequestClosed(subscription_id=subscription_id, reason="auth-required: who?")
    assert receive(session, "CLOSED", subscription_id, "auth-required: who?") == expected
    assert receive(session, "EVENT", subscription_id, {"id": ID.hex()}) is None
    assert session.unsubscribe(subscription_id) is None


def test_closed_after_eose_is_passed_on() -> None:
    session, subscription_id = open_request(ID)
    receive(session, "EOSE", subscription_id)
    assert receive(session, "CLOSED", subscription_id, "") == RequestClosed(subscription_id=subscription_id, reason="")
    assert receive(session, "CLOSED", subscription_id, "") is None
    assert session.unsubscribe(subscription_id) is None


@pytest.mark.parametrize("kind", ["EOSE", "CLOSED"])
def test_end_of_unknown_subscription_is_ignored(kind: str) -> None:
    session, _ = open_request(ID)
    assert receive(session, kind, "r99") is None


def test_late_messages_after_unsubscribe_are_ignored() -> None:
    session, subscription_id = open_request(ID)
    session.unsubscribe(subscription_id)
    assert session.unsubscribe(subscription_id) is None
    assert receive(session, "EVENT", subscription_id, {"id": ID.hex()}) is None
    assert receive(session, "EOSE", subscription_id) is None
    assert receive(session, "CLOSED", subscription_id, "bye") is None


# --- authentication


def test_challenge_is_answered_with_signed_event() -> None:
    session = Session()
    with pytest.raises(CallerError):
        session.authenticate(KEY, url="wss://a", now=7)
    assert receive(session, "AUTH", "prove it") == AuthRequested()
    assert session.auth_challenge
    kind, raw_event = orjson.loads(session.authenticate(KEY, url="wss://a", now=7))
    event = Event.parse(raw_event)
    assert (kind, event.kind, event.pubkey, event.created_at) == ("AUTH", 22242, KEY.pubkey, 7)
    assert event.tags == (("relay", "wss://a"), ("challenge", "prove it"))
    assert not session.authenticated
    assert ok(session, event) == AuthAnswered(refusal="")
    assert session.authenticated


@pytest.mark.parametrize(("text", "refusal"), [("restricted: no", "restricted: no"), ("", "no reason given")])
def test_relay_may_refuse_authentication(text: str, refusal: str) -> None:
    session = Session()
    receive(session, "AUTH", "prove it")
    event = Event.parse(orjson.loads(session.authenticate(KEY, url="wss://a", now=7))[1])
    assert ok(session, event, accepted=False, text=text) == AuthAnswered(refusal=refusal)
    assert not session.authenticated


def test_auth_event_is_not_counted_as_sent() -> None:
    session, event = Session(), next(events())
    session.publish(event)
    receive(session, "AUTH", "prove it")
    session.authenticate(KEY, url="wss://a", now=7)
    assert session.unacknowledged == 1
    assert isinstance(ok(session, event), OkReceived)
    assert not session.authenticated


def test_new_challenge_needs_new_answer() -> None:
    session = Session()
    receive(session, "AUTH", "one")
    ok(session, Event.parse(orjson.loads(session.authenticate(KEY, url="wss://a", now=7))[1]))
    receive(session, "AUTH", "two")
    assert not session.authenticated
    event = Event.parse(orjson.loads(session.authenticate(KEY, url="wss://a", now=7))[1])
    assert event.tag_values("challenge") == ["two"]


# --- notices and floods


def test_notice_is_passed_on() -> None:
    assert receive(Session(), "NOTICE", "slow down") == NoticeReceived(text="slow down")


def test_unknown_type_is_ignored() -> None:
    assert receive(Session(), "COUNT", "r1", {"count": 3}) is None


@pytest.mark.parametrize("frame", [b"", b"[]", b'["EVENT"]', b'["OK","x",true]'])
def test_malformed_frame_is_an_error(frame: bytes) -> None:
    with pytest.raises(InvalidMessage):
        Session().receive(frame)


@pytest.mark.parametrize(
    "parts",
    [
        ("EVENT", "r9", {"id": ID.hex()}),
        ("EVENT", "r1", {"id": OTHER_ID.hex()}),
        ("OK", OTHER_ID.hex(), True, ""),
        ("COUNT", "r1"),
        ("EOSE", "r9"),
        ("CLOSED", "r9", "bye"),
    ],
    ids=["unknown subscription", "other id", "unexpected OK", "unknown type", "unknown EOSE", "unknown CLOSED"],
)
def test_flood_of_unsolicited_messages_is_an_error(parts: tuple[object, ...]) -> None:
    session, _ = open_request(ID)
    for _ in range(1_000):
        assert receive(session, *parts) is None
    with pytest.raises(InvalidMessage, match="unsolicited"):
        receive(session, *parts)


@pytest.mark.parametrize("parts", [("NOTICE", "hello"), ("AUTH", "prove it")], ids=lambda parts: parts[0])
def test_flood_of_notices_or_challenges_is_an_error(parts: tuple[str, str]) -> None:
    session = Session()
    for _ in range(1_000):
        assert receive(session, *parts) is not None
    with pytest.raises(InvalidMessage, match="unsolicited"):
        receive(session, *parts)


def test_repeated_eose_counts_as_flood() -> None:
    session, subscription_id = open_request(ID)
    assert receive(session, "EOSE", subscription_id) is not None
    for _ in range(1_000):
        assert receive(session, "EOSE", subscription_id) is None
    with pytest.raises(InvalidMessage, match="unsolicited"):
        receive(session, "EOSE", subscription_id)


def test_events_beyond_the_limit_count_as_flood() -> None:
    session, subscription_id = open_request(ID, limit=1)
    delivered = [receive(session, "EVENT", subscription_id, {"id": ID.hex()}) for _ in range(1_001)]
    assert sum(outcome is not None for outcome in delivered) == 1
    with pytest.raises(InvalidMessage, match="unsolicited"):
        receive(session, "EVENT", subscription_id, {"id": ID.hex()})


def test_long_honest_session_is_no_flood() -> None:
    session, source = Session(), events()
    for _ in range(1_100):
        event = next(source)
        session.publish(event)
        assert ok(session, event) is not None
        subscription_id, _ = session.subscribe(Filter(ids=(ID,), limit=1))
        assert receive(session, "EVENT", subscription_id, {"id": ID.hex()}) is not None
        assert receive(session, "EOSE", subscription_id) is not None
        session.unsubscribe(subscription_id)
        receive(session, "CLOSED", subscription_id, "")


def test_events_crossing_our_close_are_no_flood() -> None:
    session = Session()
    for _ in range(50):
        subscription_id, _ = session.subscribe(Filter(limit=50))
        session.unsubscribe(subscription_id)
        for _ in range(50):
            assert receive(session, "EVENT", subscription_id, {"id": ID.hex()}) is None
        assert receive(session, "EOSE", subscription_id) is None
