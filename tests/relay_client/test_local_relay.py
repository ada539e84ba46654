"""The local relay: port, storage and limits."""

import asyncio
import contextlib
import os
import stat
from pathlib import Path

import pytest

from relay_client.errors import CallerError, TransportError
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.local_relay import LocalRelay
from relay_client.pool import Pool
from relay_client.relay_limits import RelayLimits
from relay_client.websocket import open_websocket

KEY = SecretKey(bytes.fromhex("11" * 32))


async def publish(url: str, *events: Event) -> None:
    async with Pool([url]) as pool:
        await pool.publish((event, [url]) for event in events)
        assert pool.reports[url].accepted == len(events)


async def everything(url: str) -> list[Event]:
    async with Pool([url]) as pool:
        return [Event.parse(raw_event) for _, raw_event in await pool.query(Filter(limit=100))]


async def test_listens_on_loopback_only(free_port: int) -> None:
    async with LocalRelay(port=free_port) as relay:
        assert relay.url == f"ws://127.0.0.1:{free_port}"
        assert await everything(relay.url) == []


async def test_port_in_use_is_an_error(free_port: int) -> None:
    event = EventDraft(kind=1, created_at=1).sign(KEY)
    async with LocalRelay(port=free_port) as relay:
        with pytest.raises(CallerError, match=f"cannot listen on 127.0.0.1:{free_port}"):
            await LocalRelay(port=free_port).__aenter__()
        await publish(relay.url, event)
        assert await everything(relay.url) == [event]


async def test_port_is_free_after_shutdown(free_port: int, tmp_path: Path) -> None:
    # Repeated, with a database: shutdown in the background usually wins a single race.
    for number in range(20):
        events = [EventDraft(kind=1, created_at=n, content="x" * 60_000).sign(KEY) for n in range(4)]
        async with LocalRelay(port=free_port, folder=tmp_path / f"{number}") as relay:
            await publish(relay.url, *events)


async def test_port_is_free_although_a_client_connects_at_shutdown(free_port: int) -> None:
    for _ in range(20):  # nostr-sdk missed one shutdown in three
        async with LocalRelay(port=free_port) as relay:
            client = asyncio.create_task(open_websocket(relay.url))
        with contextlib.suppress(TransportError):
            await (await client).close()


async def test_events_in_memory_are_not_kept(free_port: int, unused_port: int) -> None:
    async with LocalRelay(port=free_port) as relay:
        await publish(relay.url, EventDraft(kind=1, created_at=1).sign(KEY))
    async with LocalRelay(port=unused_port) as relay:
        assert await everything(relay.url) == []


async def test_folder_keeps_events_over_a_restart(free_port: int, unused_port: int, tmp_path: Path) -> None:
    events = [EventDraft(kind=1064, created_at=number, content="x" * 60_000).sign(KEY) for number in range(1, 5)]
    async with LocalRelay(port=free_port, folder=tmp_path / "a" / "relay") as relay:
        await publish(relay.url, *events)
    async with LocalRelay(port=unused_port, folder=tmp_path / "a" / "relay") as relay:
        assert {event.id for event in await everything(relay.url)} == {event.id for event in events}


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}


def open_to_others(folder: Path) -> None:
    folder.chmod(0o777)


async def test_folder_is_private(free_port: int, tmp_path: Path) -> None:
    folder, before = tmp_path / "relay", os.umask(0)
    try:
        async with LocalRelay(port=free_port, folder=folder):
            found = modes(folder)
    finally:
        os.umask(before)
    assert found == {"relay": 0o700, "data.mdb": 0o600, "lock.mdb": 0o600}


async def test_open_folder_is_protected(free_port: int, tmp_path: Path) -> None:
    open_to_others(tmp_path)
    async with LocalRelay(port=free_port, folder=tmp_path):
        assert modes(tmp_path)[tmp_path.name] == 0o755


async def test_folder_that_is_a_file_is_an_error(free_port: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CallerError):
        await LocalRelay(port=free_port, folder=tmp_path / "file").__aenter__()


async def test_damaged_database_is_an_error(free_port: int, tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"damaged" * 10_000)
    with pytest.raises(CallerError, match="cannot start"):
        await LocalRelay(port=free_port, folder=tmp_path).__aenter__()


async def test_rate_is_not_limited(relay: str) -> None:
    # nostr-sdk's default limit is 60 events a minute.
    events = [EventDraft(kind=1, created_at=number).sign(KEY) for number in range(300)]
    await publish(relay, *events)


@pytest.mark.parametrize("folder", [None, "data"], ids=["memory", "disk"])
async def test_limited_relay_refuses_strangers_and_ends_when_full(
    folder: str | None, tmp_path: Path, free_port: int, stranger: SecretKey
) -> None:
    # An empty database has about 100 kB.
    limits = RelayLimits(authors=frozenset({KEY.pubkey}), max_event_size=60_500, max_total_size=250_000)
    events = [EventDraft(kind=1, created_at=n, content="x" * 60_000).sign(KEY) for n in range(5)]
    refused = [
        EventDraft(kind=1, created_at=1).sign(stranger),
        EventDraft(kind=1, created_at=1, content="x" * 61_000).sign(KEY),
    ]
    async with LocalRelay(port=free_port, folder=tmp_path / folder if folder else None, limits=limits) as relay:
        for event, reason in zip(refused, ["not on the relay's list", "the limit is 60,500"], strict=True):
            async with Pool([relay.url]) as pool:
                await pool.publish([(event, [relay.url])])
                assert reason in pool.reports[relay.url].reason
        async with Pool([relay.url]) as pool:
            await pool.publish((event, [relay.url]) for event in events)
            assert "the relay is full" in pool.reports[relay.url].reason
        stored = await everything(relay.url)
    assert 0 < len(stored) < len(events)
    assert {event.id for event in stored} < {event.id for event in events}


async def test_limited_relay_delays_a_fast_address(free_port: int) -> None:
    events = [EventDraft(kind=1, created_at=n).sign(KEY) for n in range(2)]
    async with LocalRelay(port=free_port, limits=RelayLimits(events_per_minute=1)) as relay:
        await publish(relay.url, events[0])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(publish(relay.url, events[1]), 0.2)
        assert await everything(relay.url) == events[:1]


async def test_all_addresses_are_served(free_port: int) -> None:
    async with LocalRelay(port=free_port, host="0.0.0.0", limits=RelayLimits()) as relay:  # noqa: S104
        assert relay.url == f"ws://127.0.0.1:{free_port}"
        await publish(f"ws://127.0.0.2:{free_port}", EventDraft(kind=1, created_at=1).sign(KEY))
