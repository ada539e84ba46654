"""Fetching while relays stall, die, lie and withhold: the fetch succeeds if it can, and nothing partial is visible."""

import asyncio
import errno
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.proxy import Proxy, proxy_to
from support.releases import fetch, publish, source, tiny_sources, visible
from support.scripted_relay import RawEvent, ScriptedRelay, relay_on_thread, scripted_relay

from distribution.errors import ChunksMissing, InvalidChunk, TransportError
from distribution.events import CHUNK_KIND
from distribution.fetch import Fetched
from distribution.publish import Published
from relay_client.keys import SecretKey
from relay_client.session import MAX_UNSOLICITED
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

GIVE_UP_S = 60  # a test that waits this long has failed
COUNT = 150  # chunks of the checkpoint; 152 with the two other files
DATA = random.Random(1).randbytes(COUNT * 46_080)  # noqa: S311 (no secret)
PATIENT = Timeouts(answer_s=1_000)  # a silent relay is never given up: a fetch that waits for it fails


@pytest.fixture
async def relays() -> AsyncIterator[list[ScriptedRelay]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(scripted_relay()) for _ in range(3)]


@pytest.fixture(scope="module")
def release_events(tmp_path_factory: pytest.TempPathFactory, key: SecretKey) -> tuple[Published, dict[str, RawEvent]]:
    """A release and the events of it that a relay stores."""
    files = [source("big.bin", "checkpoint", DATA, [("weights", len(DATA))]), *tiny_sources()[1:]]
    with relay_on_thread() as relay:
        done = asyncio.run(publish([relay.url], tmp_path_factory.mktemp("author"), key, files))
        return done, relay.events


@pytest.fixture
def published(relays: list[ScriptedRelay], release_events: tuple[Published, dict[str, RawEvent]]) -> Published:
    """A release that all three relays have completely."""
    done, events = release_events
    for relay in relays:
        relay.events = dict(events)
    return done


async def fetched_whole(
    urls: Sequence[str], home: Path, published: Published, timeouts: Timeouts = DEFAULT_TIMEOUTS
) -> Fetched:
    async with asyncio.timeout(GIVE_UP_S):
        fetched = await fetch(urls, home, published.release.id, timeouts=timeouts)
    assert fetched.release.file("checkpoint").local_path.read_bytes() == DATA
    return fetched


def urls(relays: Sequence[ScriptedRelay | Proxy]) -> list[str]:
    return [relay.url for relay in relays]


def is_chunk(published: Published, event: RawEvent) -> bool:
    """Return whether the event carries a chunk of a file, not of the manifest."""
    return event["kind"] == CHUNK_KIND and bytes.fromhex(event["id"]) not in published.release.manifest_ids


async def test_fetch_succeeds_if_two_of_three_relays_withhold(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    for relay in relays[:2]:
        relay.deliver = lambda event: None if event["kind"] == CHUNK_KIND else event
    fetched = await fetched_whole(urls(relays), tmp_path, published)
    assert fetched.chunks.relays == {relays[2].url: COUNT + 2}
    assert fetched.misbehaving == []


@pytest.mark.parametrize("reset", [True, False], ids=["by a reset", "in good order"])
async def test_fetch_succeeds_if_two_of_three_relays_die(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, *, reset: bool
) -> None:
    async with proxy_to(relays[0].url) as first, proxy_to(relays[1].url) as second:
        for proxy in (first, second):
            proxy.cut_after, proxy.reset, proxy.dies = 1_000_000, reset, True
        fetched = await fetched_whole([first.url, second.url, relays[2].url], tmp_path, published)
    assert (fetched.chunks.fetched, fetched.chunks.rejected) == (COUNT + 2, 0)
    assert (first.connections, second.connections) == (1, 1)  # the third could do without them


async def test_fetch_succeeds_if_two_of_three_relays_stall(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    over = asyncio.Event()

    async def hang(wanted: dict[str, list[str]]) -> None:
        if any(is_chunk(published, relays[0].events[event_id]) for event_id in wanted.get("ids", [])):
            await over.wait()

    relays[0].before_answer = relays[1].before_answer = hang
    try:
        fetched = await fetched_whole(urls(relays), tmp_path, published, PATIENT)
    finally:
        over.set()
    assert fetched.chunks.relays == {relays[2].url: COUNT + 2}


async def test_slow_relay_does_not_delay_the_fetch(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    async with proxy_to(relays[0].url) as slow:
        relays[0].before_answer = lambda _wanted: _trickle(slow)
        fetched = await fetched_whole([slow.url, relays[1].url], tmp_path, published, PATIENT)
    assert fetched.chunks.relays == {relays[1].url: COUNT + 2}


async def _trickle(proxy: Proxy) -> None:
    proxy.trickle = True


async def test_faster_relay_delivers_more(relays: list[ScriptedRelay], tmp_path: Path, published: Published) -> None:
    async with proxy_to(relays[0].url) as slow:
        slow.delay_s = 0.05  # per event, which is about as large as a block
        fetched = await fetched_whole([slow.url, relays[1].url], tmp_path, published)
    assert fetched.chunks.relays[relays[1].url] > fetched.chunks.relays.get(slow.url, 0)


async def test_flipped_bit_marks_its_relay_as_misbehaving(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    async with proxy_to(relays[0].url) as flipping:
        flipping.flip_at = 300_000  # somewhere in the content of an event: headers and commas are few
        fetched = await fetched_whole([flipping.url, relays[1].url], tmp_path, published)
        assert (fetched.misbehaving, fetched.chunks.rejected) == ([flipping.url], 1)
        alone = await fetched_whole([flipping.url], tmp_path / "alone", published)
    assert alone.chunks.fetched == COUNT + 2
    assert fetched.chunks.relays.get(flipping.url, 0) < 50  # less than a request, and then no other


async def test_lying_relay_gets_no_second_request(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    relays[0].requests.clear()
    relays[0].deliver = lambda event: event | {"content": "AAAA"} if is_chunk(published, event) else event
    fetched = await fetched_whole(urls(relays), tmp_path, published)
    assert fetched.misbehaving == [relays[0].url]
    chunk_requests = [
        wanted for wanted in relays[0].requests if is_chunk(published, relays[0].events[wanted["ids"][0]])
    ]
    assert len(chunk_requests) <= 2  # those that were open when it was found out


async def test_relay_that_keeps_disconnecting_is_asked_again(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    async with proxy_to(relays[0].url) as breaking:
        breaking.cut_after = 3_000_000
        fetched = await fetched_whole([breaking.url], tmp_path, published)
    assert fetched.chunks.fetched == COUNT + 2
    assert breaking.connections >= 4  # 9.4 MB


async def test_fetch_resumes_after_its_only_relay_died(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    async with proxy_to(relays[0].url) as dying:
        dying.cut_after, dying.dies = 3_000_000, True
        async with asyncio.timeout(GIVE_UP_S):
            with pytest.raises(ChunksMissing, match=f"of 152 chunks missing on {dying.url}"):
                await fetch([dying.url], tmp_path, published.release.id)
    assert visible(tmp_path) == {}
    again = await fetched_whole([relays[1].url], tmp_path, published)
    assert again.chunks.reused > 20
    assert again.chunks.reused + again.chunks.fetched == COUNT + 2


async def test_missing_chunks_are_counted_and_fetched_later(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    lost = [chunk.event_id.hex() for chunk in list(published.manifest.files[0].chunks(46_080))[40:57]]
    kept = {event_id: relays[0].events[event_id] for event_id in lost}
    for relay in relays:
        relay.events = {event_id: event for event_id, event in relay.events.items() if event_id not in kept}
    with pytest.raises(ChunksMissing) as failure:
        await fetch(urls(relays), tmp_path, published.release.id)
    assert str(failure.value) == f"17 of 152 chunks missing on {', '.join(urls(relays))}; run it again later"
    assert visible(tmp_path) == {}
    relays[1].events |= kept
    again = await fetched_whole(urls(relays), tmp_path, published)
    assert (again.chunks.fetched, again.chunks.reused) == (17, COUNT + 2 - 17)


async def test_corrected_lie_is_not_reported_as_the_cause(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    lied, lost = [chunk.event_id.hex() for chunk in list(published.manifest.files[0].chunks(46_080))[:2]]
    relays[0].deliver = lambda event: event | {"content": "AAAA"} if event["id"] == lied else event
    for relay in relays:
        relay.events.pop(lost)
    with pytest.raises(ChunksMissing, match="1 of 152 chunks missing"):
        await fetch(urls(relays), tmp_path, published.release.id)
    assert visible(tmp_path) == {}
    relays[1].events.pop(lied)
    relays[2].events.pop(lied)
    with pytest.raises(InvalidChunk, match="2 of 152 chunks are missing or did not verify"):
        await fetch(urls(relays), tmp_path / "other", published.release.id)
    assert visible(tmp_path / "other") == {}


async def test_fetch_resumes_after_disk_full(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, room = os.pwrite, iter(range(40))

    def write(descriptor: int, data: bytes, offset: int) -> int:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", write)
        with pytest.raises(OSError, match="No space left"):
            await fetch(urls(relays), tmp_path, published.release.id)
    assert visible(tmp_path) == {}
    again = await fetched_whole(urls(relays), tmp_path, published)
    assert (again.chunks.reused, again.chunks.fetched) == (40, COUNT + 2 - 40)


async def test_order_of_events_does_not_matter(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    shuffled = list(relays[0].events.items())
    random.Random(2).shuffle(shuffled)  # noqa: S311 (no secret)
    relays[0].events = dict(shuffled)
    await fetched_whole([relays[0].url], tmp_path, published)


async def test_flood_of_unrequested_events_drops_the_relay(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    junk = next(event for event in relays[0].events.values() if is_chunk(published, event)) | {"content": "x"}
    relays[0].junk = [junk | {"id": f"{number:064x}"} for number in range(MAX_UNSOLICITED + 1)]
    with pytest.raises(TransportError, match="unsolicited"):
        await fetch([relays[0].url], tmp_path, published.release.id)
    assert visible(tmp_path) == {}
    fetched = await fetched_whole([relays[0].url, relays[1].url], tmp_path, published)
    assert fetched.chunks.relays == {relays[1].url: COUNT + 2}


async def test_relay_limited_to_one_request_is_respected(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    refused: list[int] = []

    def refuse(wanted: dict[str, list[str]]) -> str:
        if len(wanted["ids"]) < 50 or refused:
            return ""
        refused.append(1)
        return "error: too many concurrent REQs"

    relays[0].refuse = refuse
    fetched = await fetched_whole([relays[0].url], tmp_path, published)
    assert (refused, fetched.chunks.fetched) == ([1], COUNT + 2)


async def test_progress_counts_verified_bytes_and_never_decreases(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    relays[0].deliver = lambda event: event | {"content": "AAAA"} if is_chunk(published, event) else event
    seen: list[tuple[int, int]] = []
    lost = relays[1].events.pop(next(published.manifest.files[0].chunks(46_080)).event_id.hex())
    with pytest.raises(InvalidChunk, match="did not verify"):
        await fetch(urls(relays[:2]), tmp_path, published.release.id, on_progress=lambda *now: seen.append(now))
    size = published.release.size
    assert seen[-1] == (size - 46_080, size)
    relays[1].events[lost["id"]] = lost
    await fetch(urls(relays[:2]), tmp_path, published.release.id, on_progress=lambda *now: seen.append(now))
    assert seen[-2:] == [(size - 46_080, size), (size, size)]
    assert seen == sorted(seen)
