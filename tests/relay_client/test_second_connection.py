"""The second connection to a steady relay: its failures, and that no event is lost."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus

import orjson
import pytest
from support.scripted_relay import ScriptedRelay
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from relay_client.allocation import Allocation
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport
from relay_client.timeouts import Timeouts

KEY = SecretKey(bytes.fromhex("11" * 32))
EVENTS = [EventDraft(kind=1064, created_at=number).sign(KEY) for number in range(400)]
GIVE_UP_S = 60  # a test that waits this long has failed
QUICK = Timeouts(rate_limit_first_s=0.01, retry_first_s=0.01, answer_s=0.5)  # an honest relay here answers sooner

Behaviour = Callable[["Relay", ServerConnection], Awaitable[None]]
Door = Callable[["Relay"], Awaitable[HTTPStatus | None]]


class Relay(ScriptedRelay):
    """A relay that runs `behaviour` for its second connection, and `door` before it accepts later ones."""

    def __init__(self, behaviour: Behaviour | None = None, door: Door | None = None) -> None:
        super().__init__()
        self.behaviour, self.door = behaviour, door
        self.over = asyncio.Event()
        self.peers: list[ServerConnection] = []
        self.callers = 0

    async def admit(self, peer: ServerConnection, _request: Request) -> Response | None:
        self.callers += 1
        refused = await self.door(self) if self.door and self.callers > 1 else None
        return peer.respond(refused, "no") if refused else None

    async def welcome(self, peer: ServerConnection) -> None:
        self.peers.append(peer)
        if self.behaviour and len(self.peers) == 2:
            await self.behaviour(self, peer)
        else:
            await self.handle(peer)


@contextlib.asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[Relay]:
    async with serve(
        relay.welcome, "127.0.0.1", 0, compression=None, process_request=relay.admit, open_timeout=None
    ) as server:
        relay.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        try:
            yield relay
        finally:
            relay.over.set()


async def send(relay: Relay, *, count: int = 400, timeouts: Timeouts = QUICK) -> RelayReport:
    async with running(relay), asyncio.timeout(GIVE_UP_S), Pool([relay.url], signer=KEY, timeouts=timeouts) as pool:
        await pool.send(Allocation([relay.url], [1] * count), EVENTS.__getitem__)
        for second in relay.peers[1:2]:
            await second.wait_closed()
        return pool.reports[relay.url]


async def closes(_relay: Relay, peer: ServerConnection) -> None:
    await peer.close()


async def breaks(relay: Relay, peer: ServerConnection) -> None:
    for _ in range(10):
        await relay._take(peer, orjson.loads(await peer.recv())[1])
    await peer.recv()
    peer.transport.abort()


async def refuses(_relay: Relay, peer: ServerConnection) -> None:
    async for frame in peer:
        event_id = orjson.loads(frame)[1]["id"]
        await peer.send(orjson.dumps(["OK", event_id, False, "blocked: one connection for each"]).decode())


async def sends_garbage(_relay: Relay, peer: ServerConnection) -> None:
    await peer.recv()
    await peer.send('{"no": "message"}')
    await peer.wait_closed()


async def is_silent(_relay: Relay, peer: ServerConnection) -> None:
    async for _ in peer:
        pass


async def takes_the_place_of_the_first(relay: Relay, peer: ServerConnection) -> None:
    relay.peers[0].transport.abort()
    await relay.handle(peer)


async def test_steady_relay_gets_a_second_connection() -> None:
    relay = Relay()
    report = await send(relay)
    assert Counter(relay.received) == Counter(event.id.hex() for event in EVENTS)
    assert (relay.connections, report.accepted, report.reason) == (2, 400, "")


async def test_half_of_the_events_use_it() -> None:
    over = Counter[ServerConnection]()

    async def counted(relay: Relay, peer: ServerConnection) -> None:
        async for frame in peer:
            over[peer] += 1
            await relay._take(peer, orjson.loads(frame)[1])

    await send(Relay(counted))
    assert 100 < over.total() < 250  # of the events after the first 64


@pytest.mark.parametrize("behaviour", [closes, breaks, refuses, sends_garbage, is_silent, takes_the_place_of_the_first])
async def test_failure_of_it_loses_nothing(behaviour: Behaviour) -> None:
    relay = Relay(behaviour)
    report = await send(relay)
    assert set(relay.events) == {event.id.hex() for event in EVENTS}
    assert (report.accepted + report.duplicate, report.reason) == (400, "")
    assert len(relay.received) <= 400 + 8  # only events in flight are repeated
    assert len(relay.peers) == 2 + (behaviour is takes_the_place_of_the_first)  # it is not retried


async def test_relay_may_refuse_it() -> None:
    async def full(_relay: Relay) -> HTTPStatus:
        return HTTPStatus.TOO_MANY_REQUESTS

    relay = Relay(door=full)
    report = await send(relay)
    assert (report.accepted, report.reason, relay.callers, relay.connections) == (400, "", 2, 1)


async def test_slow_handshake_of_it_blocks_nothing() -> None:
    async def waits(relay: Relay) -> HTTPStatus:
        await relay.over.wait()
        return HTTPStatus.GONE

    relay = Relay(door=waits)
    report = await send(relay, timeouts=replace(QUICK, connect_s=2 * GIVE_UP_S))
    assert (report.accepted, report.reason, relay.callers, relay.connections) == (400, "", 2, 1)


async def test_it_continues_alone_when_the_first_breaks() -> None:
    async def full(relay: Relay) -> HTTPStatus | None:
        return HTTPStatus.TOO_MANY_REQUESTS if relay.callers > 2 else None

    relay = Relay(takes_the_place_of_the_first, door=full)
    report = await send(relay)
    assert set(relay.events) == {event.id.hex() for event in EVENTS}
    assert (report.accepted + report.duplicate, report.reason) == (400, "")


async def test_rate_limit_on_it_ends_it() -> None:
    came_after, is_alone = 0, True

    async def finds_it_too_much(_relay: Relay, peer: ServerConnection) -> None:
        nonlocal came_after, is_alone
        event_id = orjson.loads(await peer.recv())[1]["id"]
        is_alone = False
        await peer.send(orjson.dumps(["OK", event_id, False, "rate-limited: two are too many"]).decode())
        async for frame in peer:
            came_after += 1
            await asyncio.sleep(0.03)  # longer than the back-off
            await peer.send(orjson.dumps(["OK", orjson.loads(frame)[1]["id"], True, ""]).decode())
        is_alone = True

    relay = Relay(finds_it_too_much)
    relay.accept = lambda _event: (is_alone, "rate-limited: one of you has to go")
    report = await send(relay)
    assert (report.accepted, report.refused, report.reason, len(relay.peers)) == (400, 0, "", 2)
    assert came_after <= 3  # those in flight


async def test_few_events_use_one_connection() -> None:
    relay = Relay()
    await send(relay, count=120)
    assert relay.connections == 1


async def test_rate_limited_relay_gets_one_connection() -> None:
    relay = Relay()
    relay.accept = lambda _event: (len(relay.received) != 20, "rate-limited: for once")
    report = await send(relay)
    assert (report.accepted, report.refused, relay.connections) == (400, 0, 1)


async def test_both_connections_authenticate() -> None:
    relay = Relay()
    relay.members = [KEY.pubkey.hex()]
    report = await send(relay)
    assert (report.accepted, report.refused) == (400, 0)
    assert relay.identities == [KEY.pubkey.hex()] * 2


@pytest.mark.parametrize("bad", range(200, 208))
async def test_event_source_may_fail_on_either(bad: int) -> None:
    def fail(number: int) -> Event:
        if number == bad:
            raise OSError("the disk failed")
        return EVENTS[number]

    async with running(Relay()) as relay, Pool([relay.url], timeouts=QUICK) as pool:
        with pytest.raises(OSError, match="the disk failed"):
            await pool.send(Allocation([relay.url], [1] * 400), fail)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("second")]
    assert relay.connections == 2
    assert EVENTS[bad].id.hex() not in relay.events
