"""Fetching a name while one relay is slow or hostile: the others decide, and what comes late counts the next time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from support.releases import clock, fetch, publish, tiny_sources
from support.scripted_relay import RawEvent, ScriptedRelay, frame_of, scripted_relay, stall
from websockets.asyncio.server import ServerConnection, serve

from distribution.chunking import CHUNK_SIZE
from distribution.errors import NotFound, Rollback
from distribution.events import CHUNK_KIND, HEAD_KIND
from distribution.publish import Published
from distribution.revocation import REVOCATION_KIND, revocation_draft
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference
from relay_client.timeouts import Timeouts

GIVE_UP_S = 20  # a test that waits this long has failed
PATIENT = Timeouts(answer_s=1_000, request_s=1_000, connect_s=1_000, settle_s=0.1)
SLOW = Timeouts(settle_s=0.1)


@pytest.fixture
def address(key: SecretKey) -> AddressReference:
    return AddressReference(author=key.pubkey, name="demo")


@contextlib.asynccontextmanager
async def endless_relay(make_frame: Callable[[str], object]) -> AsyncIterator[str]:
    """Address of a relay that answers the first request with one frame after the other, and never with EOSE."""

    async def handle(socket: ServerConnection) -> None:
        subscription = orjson.loads(await socket.recv())[1]
        while True:
            await socket.send(orjson.dumps(make_frame(subscription)).decode())
            await asyncio.sleep(0.02)

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@pytest.mark.parametrize("kind", ["AUTH", "NOTICE", "EVENT"])
async def test_endless_answer_does_not_delay_a_name(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, address: AddressReference, kind: str
) -> None:
    head = next(event for event in relays[0].events.values() if event["kind"] == HEAD_KIND)
    async with endless_relay(frame_of(kind, head)) as hostile, asyncio.timeout(GIVE_UP_S):
        fetched = await fetch([hostile, *(relay.url for relay in relays)], tmp_path, address, timeouts=PATIENT)
    assert fetched.release.id == published.release.id


async def test_mute_relay_does_not_delay_a_name(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, address: AddressReference
) -> None:
    async with scripted_relay() as mute, asyncio.timeout(GIVE_UP_S):
        mute.silent = True
        fetched = await fetch([mute.url, *(relay.url for relay in relays)], tmp_path, address, timeouts=PATIENT)
    assert fetched.release.id == published.release.id


async def test_missing_handshake_does_not_delay_a_name(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, address: AddressReference
) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        await reader.read()  # until the client gives up
        writer.close()

    async with await asyncio.start_server(wait, "127.0.0.1", 0) as server, asyncio.timeout(GIVE_UP_S):
        hostile = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        fetched = await fetch([hostile, *(relay.url for relay in relays)], tmp_path, address, timeouts=PATIENT)
    assert fetched.release.id == published.release.id


def asks_by_id(wanted: RawEvent) -> bool:
    return "ids" in wanted


def add_empty_head(relays: list[ScriptedRelay], key: SecretKey) -> None:
    """Give relays a head of version 9 that names nothing."""
    tags = (("d", "demo"), ("e", "ab" * 32), ("version", "9"), ("x", "cd" * 32))
    head = EventDraft(kind=HEAD_KIND, created_at=clock(), tags=tags).sign(key)
    for relay in relays:
        relay.events[head.id.hex()] = orjson.loads(head.to_json())


@pytest.mark.parametrize("kind", ["mute", "AUTH", "EVENT"])
async def test_unreadable_head_does_not_wait_for_slow_relay(
    relays: list[ScriptedRelay],
    tmp_path: Path,
    published: Published,
    key: SecretKey,
    address: AddressReference,
    kind: str,
) -> None:
    stall(relays[1], kind, asks_by_id)
    add_empty_head(relays, key)
    async with asyncio.timeout(GIVE_UP_S):
        fetched = await fetch([relay.url for relay in relays], tmp_path, address, timeouts=PATIENT)
    assert fetched.release.id == published.release.id


@pytest.mark.parametrize("kind", ["mute", "AUTH", "EVENT"])
async def test_copies_are_found_before_a_slow_relay_answers(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, kind: str
) -> None:
    chunks = [chunk for file in published.manifest.files for chunk in file.chunks(CHUNK_SIZE)]
    chunk, ids = chunks[0], {chunk.event_id.hex() for chunk in chunks}
    lost = relays[0].events.pop(chunk.event_id.hex())
    tags = (("x", chunk.sha256.hex()),)
    copy = EventDraft(kind=CHUNK_KIND, created_at=1, tags=tags, content=lost["content"]).sign(SecretKey.generate())
    relays[0].events[copy.id.hex()] = orjson.loads(copy.to_json())
    stall(relays[1], kind, lambda wanted: not ids.isdisjoint(wanted.get("ids", [])))
    async with asyncio.timeout(GIVE_UP_S):
        fetched = await fetch(
            [relay.url for relay in relays], tmp_path, published.release.id, timeouts=replace(PATIENT, endgame_s=0.05)
        )
    assert fetched.chunks.fetched == 5


async def linger(_wanted: RawEvent) -> None:
    await asyncio.sleep(0.15)


async def test_slow_relay_is_waited_for_if_others_lack_a_chunk(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    for event in [event for event in relays[0].events.values() if event["kind"] == CHUNK_KIND][1:]:
        del relays[0].events[event["id"]]
    relays[1].before_answer = linger
    async with asyncio.timeout(GIVE_UP_S):
        fetched = await fetch(
            [relay.url for relay in relays],
            tmp_path,
            published.release.id,
            timeouts=Timeouts(settle_s=0.01, endgame_s=0.01),
        )
    assert fetched.release.id == published.release.id


async def test_slow_relay_is_waited_for_if_no_head_counts(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, address: AddressReference
) -> None:
    del relays[0].events[published.release.id.hex()]
    relays[1].before_answer = linger
    async with asyncio.timeout(GIVE_UP_S):
        fetched = await fetch(
            [relay.url for relay in relays], tmp_path, address, timeouts=Timeouts(settle_s=0.01, endgame_s=0.01)
        )
    assert fetched.release.id == published.release.id


async def test_invalid_head_is_not_enough(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, address: AddressReference
) -> None:
    relays[0].deliver = lambda event: event | {"sig": "0" * 128} if event["kind"] == HEAD_KIND else event
    relays[1].before_answer = linger
    async with asyncio.timeout(GIVE_UP_S):
        fetched = await fetch([relay.url for relay in relays], tmp_path, address, timeouts=PATIENT)
    assert fetched.release.id == published.release.id


def hold_until_chunks(relays: list[ScriptedRelay], kind: int) -> None:
    """Make the second relay answer about `kind` only once the first is asked for chunks, which then waits for it."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def answer_late(wanted: RawEvent) -> None:
        if kind in wanted.get("kinds", []):
            await asked.wait()
            asyncio.get_running_loop().call_later(0.2, answered.set)

    async def wait_for_other(wanted: RawEvent) -> None:
        if len(wanted.get("ids", [])) > 1:
            asked.set()
            await answered.wait()

    relays[0].before_answer, relays[1].before_answer = wait_for_other, answer_late


async def test_late_head_counts_the_next_time(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, key: SecretKey, address: AddressReference
) -> None:
    await publish([relays[1].url], tmp_path / "author", key, tiny_sources(seed=1))
    relays[1].deliver = lambda event: None if event["id"] in relays[0].events else event  # has no chunk of the first
    hold_until_chunks(relays, HEAD_KIND)
    async with asyncio.timeout(GIVE_UP_S):
        fetched = await fetch([relay.url for relay in relays], tmp_path, address, timeouts=SLOW)
    assert fetched.release.id == published.release.id
    with pytest.raises(Rollback):
        await fetch([relays[0].url], tmp_path, address)


async def test_late_revocation_counts_the_next_time(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, key: SecretKey, address: AddressReference
) -> None:
    event = revocation_draft(published.release.id, reason="broken", created_at=clock()).sign(key)
    relays[1].events = {event.id.hex(): orjson.loads(event.to_json())}
    hold_until_chunks(relays, REVOCATION_KIND)
    async with asyncio.timeout(GIVE_UP_S):
        fetched = await fetch([relay.url for relay in relays], tmp_path, address, timeouts=SLOW)
    assert fetched.release.id == published.release.id
    with pytest.raises(NotFound, match="revoked every version"):
        await fetch([relays[0].url], tmp_path, address)
