"""Pools: connecting, closing, relay status, and publishing."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import FrozenInstanceError

import orjson
import pytest
from support.scripted_relay import RawEvent, ScriptedRelay, scripted_relay
from websockets.asyncio.server import ServerConnection, serve

from relay_client.errors import CallerError, TransportError
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.pool import Pool
from relay_client.relay_status import RelayStatus
from relay_client.timeouts import Timeouts

KEY = SecretKey(bytes.fromhex("11" * 32))
IMPATIENT = Timeouts(answer_s=0.5, patience_s=0)  # an honest relay on this machine answers sooner
GIVE_UP_S = 60  # a test that waits this long has failed
CONNECT_S = 0.3  # enough to connect to this machine


def made(count: int, content: str = "") -> list[Event]:
    return [EventDraft(kind=1064, created_at=number + 1, content=content).sign(KEY) for number in range(count)]


def stored(events: Sequence[Event]) -> dict[str, RawEvent]:
    return {event.id.hex(): orjson.loads(event.to_json()) for event in events}


def to(urls: Sequence[str], events: Sequence[Event]) -> Iterator[tuple[Event, Sequence[str]]]:
    return ((event, urls) for event in events)


def ids(events: Sequence[Event]) -> list[bytes]:
    return [event.id for event in events]


@pytest.fixture
async def second() -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as running:
        yield running


@pytest.fixture
def unreachable() -> Iterator[str]:
    """An address without a listener."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"ws://127.0.0.1:{reserved.getsockname()[1]}"


# --- opening and closing


async def test_pool_without_reachable_relay_is_an_error(unreachable: str) -> None:
    with pytest.raises(TransportError, match=f"no relay can be reached: {unreachable}: .+"):
        await Pool([unreachable]).__aenter__()
    with pytest.raises(TransportError, match="none is named"):
        await Pool([]).__aenter__()


def test_wrong_address_is_refused() -> None:
    with pytest.raises(CallerError, match="not a relay's address"):
        Pool(["ws://127.0.0.1:1", "ws://relay..example"])


async def test_unreachable_relay_does_not_stop_others(scripted: ScriptedRelay, unreachable: str) -> None:
    async with asyncio.timeout(GIVE_UP_S), Pool([unreachable, scripted.url]) as pool:
        assert pool.urls == [scripted.url]
        assert pool.reports[unreachable].reason
        assert pool.failure_summary() == pool.reports[unreachable].reason
        await pool.publish(to([unreachable, scripted.url], made(3)))
        assert pool.reports[scripted.url].accepted == 3
        assert pool.reports[unreachable].accepted == 0


async def test_relay_named_twice_is_used_once(scripted: ScriptedRelay) -> None:
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, scripted.url]) as pool:
        assert pool.urls == [scripted.url]
        await pool.publish(to([scripted.url], made(2)))
    assert len(scripted.received) == 2


async def test_no_task_survives_the_pool(relay: str, unreachable: str) -> None:
    before = asyncio.all_tasks()
    async with asyncio.timeout(GIVE_UP_S), Pool([relay, unreachable]) as pool:
        await pool.publish(to([relay], made(20)))
        assert len(await pool.query(Filter(kinds=(1064,), limit=20))) == 20
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before


async def test_no_task_survives_an_error(relay: str, unreachable: str) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(TransportError):
        await Pool([unreachable]).__aenter__()
    with pytest.raises(KeyError):
        async with asyncio.timeout(GIVE_UP_S), Pool([relay]):
            raise KeyError
    assert asyncio.all_tasks() == before


async def test_no_task_survives_cancelled_entering(relay: str) -> None:
    before = asyncio.all_tasks()
    with socket.socket() as mute:  # accepts connections and never answers
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                await Pool([relay, f"ws://127.0.0.1:{mute.getsockname()[1]}"]).__aenter__()
    assert asyncio.all_tasks() == before


# --- publishing


async def test_each_event_goes_to_its_relays(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    both, first_only, nowhere = made(3)
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        await pool.publish([(both, [scripted.url, second.url]), (first_only, [scripted.url]), (nowhere, [])])
        assert [report.accepted for report in pool.reports.values()] == [2, 1]
    assert scripted.received == [both.id.hex(), first_only.id.hex()]
    assert second.received == [both.id.hex()]


async def test_events_arrive_in_order(scripted: ScriptedRelay) -> None:
    events = made(50)
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url]) as pool:
        await pool.publish(to(pool.urls, events))
    assert scripted.received == [event.id.hex() for event in events]


async def test_stored_event_counts_as_duplicate(scripted: ScriptedRelay) -> None:
    events = made(5)
    scripted.events = stored(events[:2])
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url]) as pool:
        await pool.publish(to(pool.urls, events))
        report = pool.reports[scripted.url]
    assert (report.accepted, report.duplicate, report.refused, report.reason) == (3, 2, 0, "")


async def test_refusing_relay_is_dropped_with_its_reason(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    scripted.accept = lambda _event: (False, "blocked: not on the list")
    events = made(100)
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        await pool.publish(to([scripted.url, second.url], events))
        assert pool.urls == [second.url]
        report = pool.reports[scripted.url]
        assert report.reason == f"{scripted.url}: refused an event: blocked: not on the list"
        assert report.accepted == 0
        assert 1 <= report.refused <= 16  # those in flight
        assert pool.reports[second.url].accepted == 100
        before = len(scripted.received)
        await pool.publish(to([scripted.url, second.url], made(1, "other")))
    assert len(scripted.received) == before < 30


async def test_publishing_ends_when_no_relay_is_left(scripted: ScriptedRelay) -> None:
    scripted.accept = lambda _event: (False, "")
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url]) as pool:
        await pool.publish(to([scripted.url], made(1_000)))
        assert pool.urls == []
        assert pool.failure_summary() == f"{scripted.url}: refused an event: no reason given"
    assert len(scripted.received) <= 8


async def test_silent_relay_does_not_block_others(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    scripted.silent = True
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url], timeouts=IMPATIENT) as pool:
        await pool.publish(to([scripted.url, second.url], made(30)))
        assert pool.urls == [second.url]
        assert "no answer" in pool.failure_summary()
        assert pool.reports[second.url].accepted == 30


async def test_at_most_eight_events_are_in_flight() -> None:
    connections: list[list[str]] = []  # unanswered ids of each
    most = received = 0

    async def handler(peer: ServerConnection) -> None:
        nonlocal most, received
        came = asyncio.Event()
        waiting: list[str] = []
        connections.append(waiting)

        async def answer() -> None:
            while True:
                await came.wait()
                # After the pong, everything the client sent before it has arrived.
                await (await peer.ping())
                came.clear()
                answered = waiting[:]
                waiting.clear()
                for event_id in answered:
                    await peer.send(orjson.dumps(["OK", event_id, True, ""]), text=True)

        task = asyncio.create_task(answer())
        async for frame in peer:
            waiting.append(orjson.loads(frame)[1]["id"])
            received += 1
            most = max(most, sum(map(len, connections)))
            came.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with asyncio.timeout(GIVE_UP_S), Pool([url]) as pool:
            await pool.publish(to([url], made(400)))
            assert pool.reports[url].accepted == 400
    assert (most, received, len(connections)) == (8, 400, 2)


async def test_real_relay_accepts_200_events(relay: str) -> None:
    events = made(200, "x" * 1_000)
    async with asyncio.timeout(GIVE_UP_S), Pool([relay]) as pool:
        await pool.publish(to([relay], events))
        assert pool.reports[relay].accepted == 200
        assert await pool.stored_ids(ids(events)) == {relay: set(ids(events))}


async def test_real_relay_refuses_a_large_event(relay: str, scripted: ScriptedRelay) -> None:
    too_large = EventDraft(kind=1064, created_at=1, content="x" * 70_000).sign(KEY)
    async with asyncio.timeout(GIVE_UP_S), Pool([relay, scripted.url]) as pool:
        await pool.publish(to([relay, scripted.url], [too_large]))
        assert pool.urls == [scripted.url]
        assert pool.reports[relay].reason.startswith(f"{relay}: refused an event: ")


async def test_dropped_relay_is_not_used_again(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        pool.drop(scripted.url, "lost events")
        assert pool.urls == [second.url]
        report = pool.reports[scripted.url]
        assert (report.status, report.reason) == (RelayStatus.DROPPED, f"{scripted.url}: lost events")
        await pool.publish(to([scripted.url, second.url], made(3)))
        assert pool.reports[scripted.url].status is RelayStatus.DROPPED
    assert (scripted.received, scripted.requests, len(second.received)) == ([], [], 3)


async def test_noted_duplicates_are_counted(scripted: ScriptedRelay) -> None:
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url]) as pool:
        pool.note_duplicates(scripted.url, 5)
        await pool.publish(to(pool.urls, made(2)))
        report = pool.reports[scripted.url]
    assert (report.status, report.accepted, report.duplicate) == (RelayStatus.CONNECTED, 2, 5)


async def test_reports_cannot_be_changed_from_outside(scripted: ScriptedRelay) -> None:
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url]) as pool:
        with pytest.raises(FrozenInstanceError):
            pool.reports[scripted.url].reason = "changed"  # type: ignore[misc]
        assert pool.urls == [scripted.url]


async def test_relays_that_lose_events_stay_unconfirmed(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    events, attempts = made(1), 0
    scripted.keep = False

    async def find_readable() -> set[str]:
        nonlocal attempts
        attempts += 1
        return {url for url, found in (await pool.stored_ids(ids(events))).items() if found}

    timeouts = Timeouts(readable_first_s=0.001)
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url], timeouts=timeouts) as pool:
        await pool.publish(to(pool.urls, events))
        assert await pool.wait_until_readable(find_readable) == {scripted.url}
        scripted.events = stored(events)
        before = attempts
        assert await pool.wait_until_readable(find_readable) == set()
    assert (before, attempts) == (7, 8)


async def test_hinted_relay_is_never_reconnected_privately(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    async with asyncio.timeout(GIVE_UP_S), Pool([scripted.url, second.url]) as pool:
        pool._relays[second.url].is_hint = True  # as if its name resolved to another address by now
        for url in pool.urls:
            await pool._connection(url).close()
        await pool.query(Filter(kinds=(1064,), limit=1))
        assert pool.urls == [scripted.url]
        assert pool.failure_summary() == f"{second.url}: not a public address"
    assert (scripted.connections, second.connections) == (2, 1)
