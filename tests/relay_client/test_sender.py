"""Sending to relays that limit the rate, fail, disconnect, or require authentication."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.proxy import proxy_to
from support.scripted_relay import ScriptedRelay, scripted_relay
from websockets.asyncio.server import ServerConnection, serve

from relay_client.allocation import Allocation
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey
from relay_client.pool import Pool
from relay_client.sender import OnAccepted
from relay_client.timeouts import Timeouts

if TYPE_CHECKING:
    from relay_client.rate_control import RateControl

KEY = SecretKey(bytes.fromhex("11" * 32))
EVENTS = [EventDraft(kind=1064, created_at=number).sign(KEY) for number in range(40)]
IDS = [event.id.hex() for event in EVENTS]
QUICK = Timeouts(rate_limit_first_s=0.01, rate_limit_longest_s=0.04, retry_first_s=0.01, retry_longest_s=0.05)
IMPATIENT = replace(QUICK, answer_s=0.5, patience_s=0)  # an honest relay on this machine answers sooner
GIVE_UP_S = 60  # a test that waits this long has failed


@pytest.fixture
async def second() -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as running:
        yield running


@contextlib.asynccontextmanager
async def pool_of(
    *relays: ScriptedRelay | str, signer: SecretKey | None = None, timeouts: Timeouts = QUICK
) -> AsyncIterator[Pool]:
    urls = [relay if isinstance(relay, str) else relay.url for relay in relays]
    async with asyncio.timeout(GIVE_UP_S), Pool(urls, signer=signer, timeouts=timeouts) as pool:
        yield pool


def ignore(_url: str, _number: int) -> None:
    """Ignore an accepted event."""


async def send(pool: Pool, *, copies: int = 9, taken: OnAccepted = ignore) -> Allocation:
    allocation = Allocation(pool.urls, [copies] * len(EVENTS))
    await pool.send(allocation, EVENTS.__getitem__, taken)
    return allocation


# --- rate limits


async def test_rate_limited_event_is_sent_again(scripted: ScriptedRelay) -> None:
    allowance = 10

    def accept(_event: object) -> tuple[bool, str]:
        nonlocal allowance
        allowance -= 1
        if allowance < 0:
            allowance = 10
            return False, "rate-limited: 10 and a break"
        return True, ""

    scripted.accept = accept
    async with pool_of(scripted) as pool:
        await send(pool)
        report = pool.reports[scripted.url]
    assert sorted(scripted.events) == sorted(IDS)
    assert (report.accepted, report.duplicate, report.refused, report.reason) == (40, 0, 0, "")


async def test_relay_that_always_limits_is_dropped(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    scripted.accept = lambda _event: (False, "rate-limited: never")
    async with pool_of(scripted, second) as pool:
        allocation = await send(pool, copies=1)
        assert pool.reports[scripted.url].reason == f"{scripted.url}: refused an event: rate-limited: never"
    assert len(scripted.received) < 20  # one attempt per wait
    assert sorted(second.events) == sorted(IDS)
    assert allocation.unplaced == []


async def test_notice_about_rate_backs_off() -> None:
    relay = ScriptedRelay()
    rate_controls: list[RateControl] = []

    async def handler(peer: ServerConnection) -> None:
        await peer.send('["NOTICE","rate limited: calm down"]')
        await relay.handle(peer)

    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with pool_of(url) as pool:
            await send(pool)
            rate_controls = [relay.rate_control for relay in pool._relays.values()]
    assert sorted(relay.events) == sorted(IDS)
    assert rate_controls[0]._limited_at > 0


async def test_slow_relay_does_not_slow_others(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    second_is_done = asyncio.Event()

    def taken(url: str, number: int) -> None:
        if (url, number) == (second.url, len(EVENTS) - 1):
            second_is_done.set()

    def accept(_event: object) -> tuple[bool, str]:
        return (True, "") if second_is_done.is_set() else (False, "rate-limited: after the other")

    scripted.accept = accept
    async with pool_of(scripted, second) as pool:
        await send(pool, taken=taken)
        assert pool.failure_summary() == ""
    assert sorted(scripted.events) == sorted(second.events) == sorted(IDS)


# --- errors and refusals


async def test_event_is_sent_again_after_an_error(scripted: ScriptedRelay) -> None:
    failed: set[str] = set()

    def accept(event: dict[str, str]) -> tuple[bool, str]:
        if event["id"] in IDS[::10] and event["id"] not in failed:
            failed.add(event["id"])
            return False, "error: try again"
        return True, ""

    scripted.accept = accept
    async with pool_of(scripted) as pool:
        await send(pool)
        report = pool.reports[scripted.url]
    assert (report.accepted, report.refused, len(failed)) == (40, 0, 4)


async def test_repeated_error_is_a_refusal(scripted: ScriptedRelay) -> None:
    scripted.accept = lambda event: (event["id"] != IDS[5], "error: disk on fire")
    async with pool_of(scripted) as pool:
        await send(pool)
        assert pool.reports[scripted.url].reason == f"{scripted.url}: refused an event: error: disk on fire"
    assert scripted.received.count(IDS[5]) == 3


@pytest.mark.parametrize("reason", ["blocked: no", "restricted: no", "invalid: no", "pow: no"])
async def test_share_of_refusing_relay_moves(scripted: ScriptedRelay, second: ScriptedRelay, reason: str) -> None:
    scripted.accept = lambda _event: (len(scripted.received) <= 5, reason)
    async with pool_of(scripted, second) as pool:
        allocation = await send(pool, copies=1)
        assert pool.reports[scripted.url].reason.endswith(reason)
    assert len(scripted.events) == 5
    assert set(scripted.events).isdisjoint(second.events)
    assert sorted([*scripted.events, *second.events]) == sorted(IDS)
    assert allocation.unplaced == []


async def test_event_source_may_fail(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    def fail(number: int) -> Event:
        if number == 20:
            raise OSError("the disk failed")
        return EVENTS[number]

    before = asyncio.all_tasks()
    async with pool_of(scripted, second) as pool:
        with pytest.raises(OSError, match="the disk failed"):
            await pool.send(Allocation(pool.urls, [2] * len(EVENTS)), fail)
        assert pool.failure_summary() == ""
    assert asyncio.all_tasks() == before
    assert IDS[20] not in {*scripted.events, *second.events}


# --- broken connections


@contextlib.asynccontextmanager
async def breaking(relay: ScriptedRelay, *, after: int) -> AsyncIterator[str]:
    """Address of a relay whose connections break after so many answers."""

    async def handler(peer: ServerConnection) -> None:
        taken = 0

        class Counting:
            async def send(self, frame: str) -> None:
                nonlocal taken
                taken += 1
                if taken > after:
                    peer.transport.abort()
                else:
                    await peer.send(frame)

            def __aiter__(self) -> AsyncIterator[str | bytes]:
                return aiter(peer)

        await relay.handle(Counting())  # type: ignore[arg-type]

    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def test_broken_connection_is_reopened_and_resumed() -> None:
    relay = ScriptedRelay()
    async with breaking(relay, after=12) as url, pool_of(url) as pool:
        await send(pool)
        report = pool.reports[url]
        assert await pool.stored_ids([event.id for event in EVENTS[:10]]) == {url: {event.id for event in EVENTS[:10]}}
    assert sorted(relay.events) == sorted(IDS)
    assert report.reason == ""
    assert report.accepted + report.duplicate == 40
    assert report.duplicate >= 3  # stored, but the answer was lost
    assert len(relay.received) <= 40 + 4 * 8  # per connection, at most the events in flight are repeated


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_real_relay_gets_all_events_over_breaking_line(relay: str, *, reset: bool) -> None:
    async with proxy_to(relay) as proxy, pool_of(proxy.url) as pool:
        proxy.cut_after, proxy.reset = 1_500, reset  # bytes: about 15 answers
        await send(pool)
        report = pool.reports[proxy.url]
        assert proxy.connections >= 3
    assert (report.accepted + report.duplicate, report.refused, report.reason) == (40, 0, "")
    async with pool_of(relay) as pool:
        ids = [event.id for event in EVENTS]
        assert await pool.stored_ids(ids) == {relay: set(ids)}


async def test_relay_that_stays_down_is_dropped(scripted: ScriptedRelay) -> None:
    timeouts = replace(QUICK, patience_s=0.1)
    relay = ScriptedRelay()

    async def handler(peer: ServerConnection) -> None:
        async for _ in peer:
            server.close(close_connections=False)
            peer.transport.abort()

    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with pool_of(url, scripted, timeouts=timeouts) as pool:
            allocation = await send(pool, copies=1)
            assert pool.urls == [scripted.url]
            assert pool.reports[url].reason.startswith(f"{url}: ")
    assert relay.events == {}
    assert sorted(scripted.events) == sorted(IDS)
    assert allocation.unplaced == []


@pytest.mark.parametrize("closes", [False, True], ids=["notice", "close"])
async def test_relay_with_too_large_events_is_dropped(scripted: ScriptedRelay, *, closes: bool) -> None:
    async def handler(peer: ServerConnection) -> None:
        async for _ in peer:
            if closes:
                await peer.close(1009, "message too big")
            else:
                await peer.send('["NOTICE","invalid: event too large"]')

    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with pool_of(url, scripted, timeouts=IMPATIENT) as pool:
            allocation = await send(pool, copies=1)
            assert pool.urls == [scripted.url]
            assert f"too {'big' if closes else 'large'}" in pool.reports[url].reason
    assert sorted(scripted.events) == sorted(IDS)
    assert allocation.unplaced == []


async def test_silent_relay_is_dropped(scripted: ScriptedRelay, second: ScriptedRelay) -> None:
    scripted.silent = True
    async with pool_of(scripted, second, timeouts=IMPATIENT) as pool:
        await send(pool, copies=1)
        assert "no answer" in pool.reports[scripted.url].reason
    assert sorted(second.events) == sorted(IDS)


# --- authentication


@pytest.fixture
def members_only(scripted: ScriptedRelay) -> ScriptedRelay:
    scripted.members = [KEY.pubkey.hex()]
    return scripted


async def test_event_is_sent_again_after_authentication(members_only: ScriptedRelay) -> None:
    async with pool_of(members_only, signer=KEY) as pool:
        await send(pool)
        report = pool.reports[members_only.url]
    assert sorted(members_only.events) == sorted(IDS)
    assert (report.accepted, report.refused, report.reason) == (40, 0, "")


async def test_auth_without_signer_is_refused(members_only: ScriptedRelay) -> None:
    async with pool_of(members_only) as pool:
        await send(pool)
        assert pool.reports[members_only.url].reason == f"{members_only.url}: auth-required: members only"
    assert members_only.events == {}


async def test_refusal_after_authentication_is_final(members_only: ScriptedRelay) -> None:
    members_only.accept = lambda _event: (False, "auth-required: prove it again")
    async with pool_of(members_only, signer=KEY) as pool:
        await send(pool)
        assert pool.reports[members_only.url].reason.endswith("refused an event: auth-required: prove it again")
    assert members_only.events == {}


async def test_every_connection_authenticates(members_only: ScriptedRelay) -> None:
    async with breaking(members_only, after=15) as url, pool_of(url, signer=KEY) as pool:
        await send(pool)
        assert pool.reports[url].reason == ""
    assert sorted(members_only.events) == sorted(IDS)
