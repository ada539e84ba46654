"""Relay information documents (NIP-11): parsing, fetching, and what a pool makes of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson
import pytest
from support.scripted_relay import ScriptedRelay

from relay_client.nip11 import RelayInfo, fetch_relay_infos
from relay_client.pool import Pool
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

NOTHING = RelayInfo()
GIVE_UP_S = 60  # a test that waits this long has failed


@contextlib.asynccontextmanager
async def answering(answer: bytes, *, ends: bool = True) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Address of a server that answers every request with this, and the list of its requests."""
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            if not ends:
                await reader.read()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


async def fetch_info(url: str, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> RelayInfo:
    async with asyncio.timeout(GIVE_UP_S):
        return (await fetch_relay_infos([url], timeouts))[url]


def http(body: bytes, status: bytes = b"200 OK", *headers: bytes) -> bytes:
    lines = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", body)
    return b"\r\n".join(lines)


def test_limits_and_requirements_are_parsed() -> None:
    limits = {"max_message_length": 16_384, "max_limit": 20, "payment_required": True, "auth_required": True}
    assert RelayInfo.parse(orjson.dumps({"name": "x", "limitation": limits})) == RelayInfo(
        max_message_length=16_384, max_limit=20, requirements=("requires payment", "requires authentication")
    )


def test_supported_nips_are_parsed() -> None:
    assert RelayInfo.parse(b'{"supported_nips": [1, 45, 50]}') == RelayInfo(counts=True, searches=True)


@pytest.mark.parametrize(
    "raw_info",
    [
        b"",
        b"hello",
        b"[]",
        b"null",
        b"{}",
        b'{"limitation":7}',
        b'{"limitation":{"max_message_length":"many","max_limit":true}}',
        b'{"limitation":{"max_message_length":-1,"max_limit":0}}',
        b'{"limitation":{"max_message_length":1.5,"payment_required":"no","auth_required":1}}',
        b"\xff\xfe",
    ],
)
def test_invalid_values_are_ignored(raw_info: bytes) -> None:
    assert RelayInfo.parse(raw_info) == NOTHING


async def test_document_is_requested_from_the_relays_path() -> None:
    async with answering(http(b'{"limitation":{"max_limit":7}}')) as (url, requests):
        assert await fetch_info(f"{url}/inbox") == RelayInfo(max_limit=7)
    assert requests[0].startswith(b"GET /inbox HTTP/1.1\r\n")
    assert b"Accept: application/nostr+json\r\n" in requests[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 mail ready\r\n",
        http(b"<html>", b"404 Not Found"),
        http(b'{"limitation":{"max_limit":7}' + b" " * (64 << 10) + b"}"),
    ],
    ids=["nothing", "not HTTP", "not found", "too long"],
)
async def test_invalid_response_is_ignored(answer: bytes) -> None:
    async with answering(answer) as (url, _):
        assert await fetch_info(url) == NOTHING


async def test_redirect_is_not_followed() -> None:
    async with answering(http(b'{"limitation":{"max_limit":7}}')) as (target, followed):
        elsewhere = http(b"", b"302 Found", b"Location: " + target.replace("ws", "http", 1).encode())
        async with answering(elsewhere) as (url, _):
            assert await fetch_info(url) == NOTHING
    assert followed == []


async def test_missing_response_times_out(free_port: int) -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n", ends=False) as (url, _):
        assert await fetch_info(url, Timeouts(relay_info_s=0.05)) == NOTHING
    assert await fetch_info(f"ws://127.0.0.1:{free_port}") == NOTHING


async def test_real_relay_without_document(relay: str) -> None:
    assert await fetch_info(relay) == NOTHING


# --- limits applied by a pool


async def test_relay_with_small_frames_is_dropped_before_sending(
    scripted: ScriptedRelay,
) -> None:
    async with Pool([scripted.url]) as pool:
        pool.apply_limits({scripted.url: RelayInfo(max_message_length=999)}, frame_size=999)
        assert pool.urls == [scripted.url]
        pool.apply_limits({scripted.url: RelayInfo(max_message_length=998)}, frame_size=999)
        assert pool.urls == []
        assert pool.failure_summary() == f"{scripted.url}: takes messages of up to 998 bytes, and one of these has 999"
    assert scripted.received == []


@pytest.mark.parametrize(("limit", "sizes"), [(20, [20, 20, 20]), (None, [50, 10]), (1_000_000, [50, 10])])
async def test_result_limit_is_only_lowered(scripted: ScriptedRelay, limit: int | None, sizes: list[int]) -> None:
    ids = [bytes([number]) * 32 for number in range(60)]
    async with Pool([scripted.url]) as pool:
        pool.apply_limits({scripted.url: RelayInfo(max_limit=limit)}, frame_size=1)
        assert await pool.stored_ids(ids) == {scripted.url: set()}
    assert [len(wanted["ids"]) for wanted in scripted.requests] == sizes
