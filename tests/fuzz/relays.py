"""What relays send: frames, conversations, information documents, addresses."""

import contextlib

import orjson
from fuzz.oracle import BrokenPromise, Target, same, text_of
from fuzz.signed import KEY, NOW

from relay_client.errors import InvalidMessage
from relay_client.event import EventDraft
from relay_client.filter import Filter
from relay_client.hints import is_public, usable_hints
from relay_client.messages import parse_relay_message
from relay_client.nip11 import RelayInfo
from relay_client.outcomes import AuthRequested, EventReceived
from relay_client.session import Session
from relay_client.url import is_loopback, normalize_url

_DRAFT = EventDraft(kind=1, created_at=NOW)


def _frame(data: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        parse_relay_message(data)
    parse_relay_message(text_of(data))


def _session(data: bytes) -> None:
    """Have a conversation in which the relay sends each line of the input."""
    session = Session()
    wanted = (Filter(kinds=(1,), limit=2), Filter(ids=(bytes(32),), limit=1))
    for each in wanted:
        session.subscribe(each)
    session.subscribe(wanted[0], live=True)
    session.count(wanted[0])
    session.publish(_DRAFT.sign(KEY))
    events = 0
    for number, line in enumerate(data.split(b"\n")):
        outcome = session.receive(line)
        if isinstance(outcome, AuthRequested):
            orjson.loads(session.authenticate(KEY, url="wss://a.example", now=NOW))
        if isinstance(outcome, EventReceived) and outcome.subscription_id in {"r1", "r2"}:
            events += 1
        if number == 5:
            session.unsubscribe("r1")
    if events > sum(each.limit for each in wanted):
        raise BrokenPromise(f"{events} events for requests of fewer")


def _relay_info(data: bytes) -> None:
    RelayInfo.parse(data)


def _url(data: bytes) -> None:
    text = text_of(data)
    usable_hints([text], known=())
    is_public(text)
    url = normalize_url(text)
    same(url, normalize_url(url))
    is_loopback(url)
    for hint in usable_hints([url], known=()):
        same(hint, url)


TARGETS: dict[str, Target] = {
    "relay-frame": _frame,
    "relay-session": _session,
    "relay-info": _relay_info,
    "relay-url": _url,
}
