"""Queries and gathering at several relays: some lack events, misbehave or disconnect."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

import orjson
import pytest
from support.scripted_relay import RawEvent, ScriptedRelay, scripted_relay
from websockets.asyncio.server import ServerConnection, serve

from relay_client.errors import InvalidEvent
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.gather_plan import IDS_PER_REQUEST
from relay_client.keys import SecretKey
from relay_client.pool import Pool
from relay_client.rate_control import MAX_QUERY_RETRIES
from relay_client.timeouts import Timeouts

KEY = SecretKey(bytes.fromhex("11" * 32))
GIVE_UP_S = 60  # a test that waits this long has failed


def made(count: int, content: str = "") -> list[Event]:
    return [EventDraft(kind=1064, created_at=number + 1, content=content).sign(KEY) for number in range(count)]


def stored(events: Sequence[Event]) -> dict[str, RawEvent]:
    return {event.id.hex(): orjson.loads(event.to_json()) for event in events}


def ids(events: Sequence[Event]) -> list[bytes]:
    return [event.id for event in events]


class Taker:
    """An offer that keeps each event that verifies, once."""

    def __init__(self) -> None:
        self.taken: dict[bytes, str] = {}  # event id -> relay

    def __call__(self, url: str, raw_event: Mapping[str, object]) -> bool:
        try:
            event = Event.parse(raw_event)
        except InvalidEvent:
            return False
        assert event.id not in self.taken
        self.taken[event.id] = url
        return True


@pytest.fixture
async def second() -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as running:
        yield running


async def test_query_asks_every_relay(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    events = made(3)
    scripted.events, second.events = stored(events[:2]), stored(events[1:])
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        answers = await pool.query(Filter(kinds=(1064,), limit=10))
    received = sorted((url, Event.parse(raw_event).created_at) for url, raw_event in answers)
    assert received == sorted([(scripted.url, 1), (scripted.url, 2), (second.url, 2), (second.url, 3)])


async def test_stream_ends_for_one_relay_at_a_time(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    scripted.events = second.events = stored(made(9))
    counts: Counter[str] = Counter()

    def count(url: str, _raw_event: Mapping[str, object]) -> bool:
        counts[url] += 1
        return url == second.url and counts[url] == 2

    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        await pool.stream(dict.fromkeys(pool.urls, Filter(limit=9)), count)
        assert counts == {scripted.url: 9, second.url: 2}
        assert pool.failure_summary() == ""


async def test_stored_ids_are_recomputed(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    events = made(120)
    scripted.events = stored(events)
    second.events = stored(events[:3])
    scripted.deliver = lambda event: event | {"content": "forged"} if event["created_at"] > 100 else event
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        held = await pool.stored_ids(ids(events))
    assert held == {scripted.url: set(ids(events[:100])), second.url: set(ids(events[:3]))}
    assert [len(wanted["ids"]) for wanted in scripted.requests] == [50, 50, 20]
    assert [wanted["limit"] for wanted in scripted.requests] == [50, 50, 20]


async def test_stored_ids_of_nothing_asks_nothing(scripted: ScriptedRelay) -> None:
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url]) as pool:
        assert await pool.stored_ids([]) == {scripted.url: set()}
    assert scripted.requests == []


async def test_two_relays_with_half_each(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    events = made(240)
    scripted.events, second.events = stored(events[::2]), stored(events[1::2])
    taker = Taker()
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        await pool.gather(ids(events), taker)
    assert taker.taken == {event.id: (scripted.url, second.url)[number % 2] for number, event in enumerate(events)}
    requests = scripted.requests + second.requests
    assert all(len(wanted["ids"]) == wanted["limit"] <= IDS_PER_REQUEST for wanted in requests)


async def test_two_relays_share_the_work(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    timeouts = Timeouts(endgame_s=GIVE_UP_S)  # neither duplicates requests of the other
    events = made(200)
    scripted.events = second.events = stored(events)
    taker = Taker()
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url], timeouts=timeouts) as pool:
        await pool.gather(ids(events), taker)
    assert set(taker.taken) == set(ids(events))
    asked = [event_id for wanted in scripted.requests + second.requests for event_id in wanted["ids"]]
    assert sorted(asked) == sorted(event.id.hex() for event in events)


async def test_forged_event_is_requested_elsewhere(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    events = made(60)
    scripted.events = second.events = stored(events)
    scripted.deliver = lambda event: event | {"sig": "0" * 128}
    taker = Taker()
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        await pool.gather(ids(events), taker)
        assert pool.urls == [scripted.url, second.url]
    assert taker.taken == dict.fromkeys(ids(events), second.url)


async def test_missing_event_is_requested_once_per_relay(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    events = made(70)
    taker = Taker()
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        assert sorted(await pool.gather(ids(events), taker)) == sorted(ids(events))
    assert taker.taken == {}
    for relay in (scripted, second):
        asked = [event_id for wanted in relay.requests for event_id in wanted["ids"]]
        assert len(asked) == len(set(asked))
        assert {event.id.hex() for event in events} == set(asked)


async def test_short_answers_are_continued(scripted: ScriptedRelay) -> None:
    events = made(120)
    scripted.events, scripted.most = stored(events[:-3]), 20
    taker = Taker()
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url]) as pool:
        assert await pool.gather(ids(events), taker) == ids(events[-3:])
    assert set(taker.taken) == set(ids(events[:-3]))
    assert len(scripted.requests) < 20  # missing events do not keep us asking


async def test_rate_limited_query_is_repeated(scripted: ScriptedRelay) -> None:
    events, refused = made(120), Counter[str]()
    scripted.events = stored(events)

    def refuse(wanted: dict[str, list[str]]) -> str:
        refused[wanted["ids"][0]] += 1
        return "rate-limited: slow down" if refused[wanted["ids"][0]] <= 2 else ""

    scripted.refuse = refuse
    taker = Taker()
    timeouts = Timeouts(rate_limit_first_s=0.01)
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url], timeouts=timeouts) as pool:
        await pool.gather(ids(events), taker)
        assert pool.urls == [scripted.url]
    assert set(taker.taken) == set(ids(events))


async def test_relay_that_limits_every_query_is_dropped(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    events = made(3)
    scripted.refuse = lambda _wanted: "rate-limited: never"
    second.events = stored(events)
    timeouts = Timeouts(rate_limit_first_s=0.001)
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url], timeouts=timeouts) as pool:
        answers = await pool.query(Filter(ids=tuple(ids(events)), limit=3))
        assert (len(answers), pool.urls) == (3, [second.url])
        assert pool.reports[scripted.url].reason.endswith("refused a request: rate-limited: never")
    assert len(scripted.requests) == 1 + MAX_QUERY_RETRIES


async def test_relay_that_withholds_events_is_complemented(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    events = made(100)
    scripted.events = second.events = stored(events)
    scripted.deliver = lambda event: event if event["created_at"] % 3 else None
    taker = Taker()
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        await pool.gather(ids(events), taker)
    assert set(taker.taken) == set(ids(events))


async def test_requests_of_silent_relay_are_duplicated(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    events = made(60)
    scripted.silent = True
    second.events = stored(events)
    taker = Taker()
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        await pool.gather(ids(events), taker)
    assert taker.taken == dict.fromkeys(ids(events), second.url)


async def test_requests_of_closed_relay_are_requeued(second: ScriptedRelay) -> None:
    events = made(60)
    second.events = stored(events)

    async def handler(peer: ServerConnection) -> None:
        subscription, wanted = orjson.loads(await peer.recv())[1:]
        for event_id in wanted["ids"][:2]:
            await peer.send(orjson.dumps(["EVENT", subscription, second.events[event_id]]), text=True)
        await peer.close()

    taker = Taker()
    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with asyncio.timeout(GIVE_UP_S), Pool([url, second.url]) as pool:
            await pool.gather(ids(events), taker)
            assert pool.urls == [second.url]
            assert pool.reports[url].reason.startswith(f"{url}: ")
    assert set(taker.taken) == set(ids(events))
    assert list(taker.taken.values()).count(url) == 2


async def test_gather_ends_when_all_relays_are_gone() -> None:
    async def handler(peer: ServerConnection) -> None:
        await peer.recv()

    taker = Taker()
    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with asyncio.timeout(GIVE_UP_S), Pool([url], timeouts=Timeouts(retry_first_s=0.01)) as pool:
            await pool.gather(ids(made(3)), taker)
            assert pool.urls == []
    assert taker.taken == {}


async def test_silent_relay_is_not_reconnected(scripted: ScriptedRelay) -> None:
    scripted.silent = True
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url], timeouts=Timeouts(answer_s=0.05)) as pool:
        assert await pool.gather(ids(made(3)), Taker()) == ids(made(3))
        assert "no answer" in pool.failure_summary()
    assert scripted.connections == 1


async def test_silent_relay_is_queried_once(scripted: ScriptedRelay) -> None:
    scripted.silent = True
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url], timeouts=Timeouts(answer_s=0.05)) as pool:
        assert await pool.query(Filter(limit=1)) == []
        assert "no answer" in pool.failure_summary()
    assert scripted.connections == 1


async def test_gather_of_nothing_asks_nothing(scripted: ScriptedRelay) -> None:
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url]) as pool:
        await pool.gather([], Taker())
    assert scripted.requests == []


async def test_offer_error_ends_gather(
    scripted: ScriptedRelay, second: ScriptedRelay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    events = made(150)
    scripted.events = second.events = stored(events)

    def full(_url: str, _raw_event: Mapping[str, object]) -> bool:
        raise OSError("disk full")

    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        with pytest.raises(OSError, match="disk full"):
            await pool.gather(ids(events), full)
    gc.collect()
    assert caplog.messages == []  # reported once, although it ended several requests
    assert len(scripted.requests) + len(second.requests) <= 4  # two per relay are open from the start


async def test_refusing_relay_is_dropped_with_its_reason(second: ScriptedRelay) -> None:
    events = made(3)
    second.events = stored(events)

    async def handler(peer: ServerConnection) -> None:
        async for frame in peer:
            await peer.send(orjson.dumps(["CLOSED", orjson.loads(frame)[1], "auth-required: who?"]), text=True)

    taker = Taker()
    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with asyncio.timeout(GIVE_UP_S), Pool([url, second.url]) as pool:
            await pool.gather(ids(events), taker)
            assert pool.urls == [second.url]
            assert "auth-required: who?" in pool.reports[url].reason
    assert taker.taken == dict.fromkeys(ids(events), second.url)


async def test_gather_can_be_cancelled(scripted: ScriptedRelay) -> None:
    scripted.silent = True
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url]) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pool.gather(ids(made(1)), Taker())
        scripted.silent = False
        assert await pool.query(Filter(limit=1)) == []
        assert pool.failure_summary() == ""


async def test_real_relay_returns_200_events(relay: str) -> None:
    events = made(200, "x" * 1_000)
    taker = Taker()
    async with asyncio.timeout(GIVE_UP_S), Pool([relay]) as pool:
        await pool.publish((event, [relay]) for event in events)
        await pool.gather(ids(events), taker)
    assert taker.taken == dict.fromkeys(ids(events), relay)
