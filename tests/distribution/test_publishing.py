"""Publishing to several relays: copies, moved shares, receipts, reruns, demands, expiry."""

import asyncio
import contextlib
import functools
import json
import math
import re
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import releases
from support.releases import clock, fetch, many_sources, tiny_sources
from support.scripted_relay import RawEvent, ScriptedRelay, scripted_relay
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from distribution.confirm import sample_size
from distribution.errors import CallerError, NotPublished
from distribution.events import CHUNK_KIND, HEAD_KIND, RELEASE_KIND
from distribution.journal import Journal
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference
from relay_client.timeouts import Timeouts

QUICK = Timeouts(rate_limit_first_s=0.001, rate_limit_longest_s=0.01, readable_first_s=0.001, patience_s=0)
publish = functools.partial(releases.publish, timeouts=QUICK)
CHUNKS = 60  # and two small files, a manifest, the release and its head


@pytest.fixture
async def second() -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as running:
        yield running


@pytest.fixture
async def third() -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as running:
        yield running


def chunks(relay: ScriptedRelay) -> set[str]:
    """Return the ids of file chunks on a relay: all of kind 1064 but the last, which is the manifest."""
    ids = [event_id for event_id, event in relay.events.items() if event["kind"] == CHUNK_KIND]
    return {event_id for event_id in ids if relay.events[event_id]["tags"] != manifest_tags(relay)}


def manifest_tags(relay: ScriptedRelay) -> list[list[str]]:
    """Return the tags of a release's only manifest chunk."""
    (release,) = (event for event in relay.events.values() if event["kind"] == RELEASE_KIND)
    return [["x", next(tag[1] for tag in release["tags"] if tag[0] == "x")]]


def of_kind(relay: ScriptedRelay, kind: int) -> list[RawEvent]:
    return [event for event in relay.events.values() if event["kind"] == kind]


# --- copies


async def test_copies_limits_chunks_not_the_announcement(
    scripted: ScriptedRelay, second: ScriptedRelay, third: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    relays = [scripted, second, third]
    urls = [relay.url for relay in relays]
    published = await publish(urls, tmp_path / "a", key, many_sources(CHUNKS), copies=2)
    counts = Counter(event_id for relay in relays for event_id in chunks(relay))
    assert set(counts.values()) == {2}
    assert len(counts) == published.events - 3 == CHUNKS + 2
    assert sorted(len(chunks(relay)) for relay in relays) == [41, 41, 42]
    assert all(len(of_kind(relay, kind)) == 1 for relay in relays for kind in (RELEASE_KIND, HEAD_KIND))
    fetched = await fetch(urls[1:], tmp_path / "b", published.release.id)  # any two have all of it
    assert fetched.chunks.fetched == CHUNKS + 2


async def test_every_relay_gets_everything_by_default(
    scripted: ScriptedRelay, second: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    published = await publish([scripted.url, second.url], tmp_path, key, tiny_sources())
    assert scripted.events.keys() == second.events.keys()
    assert len(scripted.events) == published.events


async def test_share_of_a_refusing_relay_moves(
    scripted: ScriptedRelay, second: ScriptedRelay, third: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    scripted.accept = lambda _event: (len(scripted.received) <= 5, "blocked: enough")
    urls = [scripted.url, second.url, third.url]
    published = await publish(urls, tmp_path / "a", key, many_sources(CHUNKS), copies=1)
    assert published.relays[scripted.url].reason.endswith("blocked: enough")
    assert len(scripted.events) == 5
    assert len(chunks(second) | chunks(third) | scripted.events.keys()) == CHUNKS + 2
    assert chunks(second).isdisjoint(chunks(third))
    fetched = await fetch(urls, tmp_path / "b", published.release.id)
    assert fetched.chunks.fetched == CHUNKS + 2


async def test_share_of_a_dead_relay_moves(
    second: ScriptedRelay, third: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    dying = ScriptedRelay()

    async def handler(peer: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await dying.handle(peer)

    def accept(_event: RawEvent) -> tuple[bool, str]:
        if len(dying.received) > 5:
            server.close(close_connections=False)
            for peer in server.connections:
                peer.transport.abort()
        return True, ""

    dying.accept = accept
    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        dying.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        urls = [dying.url, second.url, third.url]
        published = await publish(urls, tmp_path / "a", key, many_sources(CHUNKS), copies=1)
    assert published.relays[dying.url].reason
    assert len(dying.events) >= 5
    fetched = await fetch(urls[1:], tmp_path / "b", published.release.id)
    assert fetched.chunks.fetched == CHUNKS + 2


async def test_share_of_a_hiding_relay_moves(
    scripted: ScriptedRelay, second: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    scripted.deliver = lambda _event: None
    published = await publish([scripted.url, second.url], tmp_path, key, many_sources(CHUNKS), copies=1)
    assert "accepted 31 chunks twice and does not return 31 of them" in published.relays[scripted.url].reason
    assert of_kind(scripted, HEAD_KIND) == []
    assert len(second.events) == published.events


# --- relays that say OK and lose chunks


def loses_a_fifth(relay: ScriptedRelay, *, times: int) -> None:
    """Make a relay withhold every fifth chunk until it was sent more than so many times."""

    def deliver(event: RawEvent) -> RawEvent | None:
        unlucky = event["kind"] == CHUNK_KIND and event["tags"] != manifest_tags(relay) and int(event["id"], 16) % 5 < 1
        return None if unlucky and relay.received.count(event["id"]) <= times else event

    relay.deliver = deliver


@pytest.mark.parametrize("check", [False, True])
async def test_lossy_relay_is_skipped(
    scripted: ScriptedRelay, second: ScriptedRelay, tmp_path: Path, key: SecretKey, *, check: bool
) -> None:
    loses_a_fifth(scripted, times=2)
    urls = [scripted.url, second.url]
    published = await publish(urls, tmp_path / "a", key, many_sources(CHUNKS), copies=1, check=check)
    assert re.search(
        r"accepted \d+ chunks twice and does not return \d+ of them", published.relays[scripted.url].reason
    )
    assert of_kind(scripted, HEAD_KIND) == []
    fetched = await fetch([second.url], tmp_path / "b", published.release.id)
    assert fetched.chunks.fetched == CHUNKS + 2


@pytest.mark.parametrize("check", [False, True])
async def test_lost_chunks_are_sent_again(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, *, check: bool
) -> None:
    loses_a_fifth(scripted, times=1)
    published = await publish([scripted.url], tmp_path / "a", key, many_sources(CHUNKS), check=check)
    again = [event_id for event_id, times in Counter(scripted.received).items() if times == 2]
    assert len(again) >= CHUNKS // 10
    assert len(scripted.received) == published.events + len(again)
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert fetched.chunks.fetched == CHUNKS + 2


async def test_nothing_is_announced_if_all_relays_lose_chunks(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    loses_a_fifth(scripted, times=2)
    with pytest.raises(NotPublished, match="chunks twice and does not return"):
        await publish([scripted.url], tmp_path, key, many_sources(CHUNKS))
    assert of_kind(scripted, HEAD_KIND) == []


@pytest.mark.parametrize("total", [1, 2, 50, 51, 149, 1_000, 8_000, 100_000])
def test_sample_finds_a_loss_of_two_percent(total: int) -> None:
    size, lost = sample_size(total), math.ceil(total / 50)

    def unnoticed(size: int) -> float:
        return math.comb(total - lost, size) / math.comb(total, size)

    assert unnoticed(size) <= 0.01 < unnoticed(size - 1)


async def test_no_head_if_a_chunk_is_on_no_relay(
    scripted: ScriptedRelay, second: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    scripted.accept = lambda _event: (len(scripted.received) <= 3, "blocked: a")
    second.accept = lambda _event: (len(second.received) <= 4, "blocked: b")
    with pytest.raises(NotPublished, match=r"no relay accepted 57 of 64 events: .*blocked: a; .*blocked: b"):
        await publish([scripted.url, second.url], tmp_path, key, many_sources(CHUNKS), copies=1)
    assert {event["kind"] for relay in (scripted, second) for event in relay.events.values()} == {CHUNK_KIND}


async def test_announcement_waits_for_the_slowest_relay(
    scripted: ScriptedRelay, second: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    late = 0

    def accept(event: RawEvent) -> tuple[bool, str]:
        nonlocal late
        if event["kind"] == RELEASE_KIND and len(second.events) < CHUNKS // 2:
            late += 1
        return True, ""

    scripted.accept = accept
    allowed = iter(range(10_000))
    second.accept = lambda _event: (next(allowed) % 5 != 0, "rate-limited: one in five")
    await publish([scripted.url, second.url], tmp_path, key, many_sources(CHUNKS), copies=1)
    assert late == 0
    assert len(scripted.events) + len(second.events) == CHUNKS + 2 + 2 * 3


# --- reruns


async def test_rerun_reads_a_sample_and_sends_nothing(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    await publish([scripted.url], tmp_path, key, many_sources(CHUNKS))
    scripted.received.clear()
    scripted.requests.clear()
    await publish([scripted.url], tmp_path, key, many_sources(CHUNKS))
    asked = {event_id for wanted in scripted.requests for event_id in wanted.get("ids", ())}
    assert len(asked & chunks(scripted)) >= sample_size(CHUNKS + 2)
    assert scripted.received == []


async def test_interrupted_publish_resumes(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    scripted.accept = lambda _event: (len(scripted.received) <= 30, "blocked: not today")
    with pytest.raises(NotPublished):
        await publish([scripted.url], tmp_path, key, many_sources(CHUNKS))
    before = scripted.received[:30]
    scripted.received.clear()
    scripted.accept = lambda _event: (True, "")
    published = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS))
    assert published.resumed
    assert set(before).isdisjoint(scripted.received)
    assert len(scripted.received) == published.events - 30
    assert len(of_kind(scripted, RELEASE_KIND)) == 1


async def test_emptied_relay_is_sent_everything_again(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    first = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS))
    scripted.events.clear()
    scripted.received.clear()
    again = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS))
    assert again.release.id == first.release.id
    assert len(scripted.received) == len(scripted.events) == first.events


async def test_check_finds_events_that_a_relay_lost(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    await publish([scripted.url], tmp_path, key, many_sources(CHUNKS))
    lost = scripted.received[10]
    del scripted.events[lost]
    scripted.received.clear()
    await publish([scripted.url], tmp_path, key, many_sources(CHUNKS), check=True)
    assert scripted.received == [lost]


async def test_new_relay_gets_the_whole_release(
    scripted: ScriptedRelay, second: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    first = await publish([scripted.url], tmp_path, key, tiny_sources())
    sent = len(scripted.received)
    await publish([scripted.url, second.url], tmp_path, key, tiny_sources())
    assert chunks(scripted) == chunks(second)
    assert [event["id"] for event in of_kind(second, RELEASE_KIND)] == [first.release.id.hex()]
    assert len(second.received) == first.events
    assert len(scripted.received) == sent


async def test_receipts_of_another_release_do_not_count(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    await publish([scripted.url], tmp_path, key, tiny_sources())
    scripted.received.clear()
    second = await publish([scripted.url], tmp_path, key, tiny_sources(), new_version=True)
    assert len(scripted.received) == second.events
    receipts = sorted(path.name for path in (tmp_path / "state" / "receipts").iterdir())
    assert second.release.id.hex() in receipts
    assert len(receipts) == 2


# --- relay limits


async def test_relay_with_small_limit_is_skipped(
    scripted: ScriptedRelay, second: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    scripted.description = {"limitation": {"max_message_length": 16_384}}
    published = await publish([scripted.url, second.url], tmp_path, key, tiny_sources())
    assert "takes messages of up to 16,384 bytes" in published.relays[scripted.url].reason
    assert scripted.received == []
    assert len(second.received) == published.events


async def test_publish_fails_if_all_limits_are_too_small(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    scripted.description = {"limitation": {"max_message_length": 16_384}}
    with pytest.raises(NotPublished, match="up to 16,384 bytes"):
        await publish([scripted.url], tmp_path, key, tiny_sources())
    assert scripted.received == []


async def test_demands_of_a_relay_are_reported(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    scripted.description = {"limitation": {"payment_required": True, "max_message_length": 65_536}}
    published = await publish([scripted.url], tmp_path, key, tiny_sources())
    assert published.relays[scripted.url].requirements == ("requires payment",)
    assert len(scripted.received) == published.events


async def test_members_only_relay_is_authenticated_to(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    scripted.members = [key.pubkey.hex()]
    published = await publish([scripted.url], tmp_path, key, tiny_sources())
    assert len(scripted.events) == published.events
    assert published.relays[scripted.url].refused == 0


async def test_send_rate_is_recorded(relay: str, tmp_path: Path, key: SecretKey) -> None:
    await publish([relay], tmp_path, key, many_sources(CHUNKS))
    with Journal(tmp_path / "state" / "journal.sqlite") as journal:
        rate = journal.send_rate(relay)
    assert rate is not None
    assert rate > 0


# --- expiry


async def test_every_event_of_an_expiring_release_has_the_tag(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    at = clock()
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources(), expires_in_s=3_600, now=lambda: at)
    expirations = [[tag[1] for tag in event["tags"] if tag[0] == "expiration"] for event in scripted.events.values()]
    assert expirations == [[str(at + 3_600)]] * published.events
    fetched = await fetch([scripted.url], tmp_path / "b", AddressReference(author=key.pubkey, name="demo"))
    assert fetched.release.id == published.release.id


async def test_release_without_expiry_has_no_tag(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    await publish([scripted.url], tmp_path, key, tiny_sources())
    assert not any(tag[0] == "expiration" for event in scripted.events.values() for tag in event["tags"])


async def test_rerun_keeps_expiry_and_ids(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    first = await publish([scripted.url], tmp_path, key, tiny_sources(), expires_in_s=3_600)
    sent = len(scripted.received)
    again = await publish([scripted.url], tmp_path, key, tiny_sources(), now=lambda: clock() + 60)
    assert again.release.id == first.release.id
    assert len(scripted.received) == sent


async def test_expired_release_is_not_published_again(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    await publish([scripted.url], tmp_path, key, tiny_sources(), expires_in_s=100, now=lambda: clock() - 200)
    sent = len(scripted.received)
    with pytest.raises(CallerError, match="has expired: use --new-version"):
        await publish([scripted.url], tmp_path, key, tiny_sources(), expires_in_s=100)
    assert len(scripted.received) == sent


async def test_refused_expired_event_is_reported(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    scripted.accept = lambda event: (all(tag[0] != "expiration" for tag in event["tags"]), "invalid: event expired")
    with pytest.raises(NotPublished, match="invalid: event expired"):
        await publish([scripted.url], tmp_path, key, tiny_sources(), expires_in_s=3_600)
    assert scripted.events == {}


def test_journal_without_expiry_column_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as older:
        older.execute(
            "CREATE TABLE publishes (author BLOB NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,"
            " contents BLOB NOT NULL, created_at INTEGER NOT NULL, card TEXT NOT NULL, hint TEXT NOT NULL,"
            " PRIMARY KEY (author, name, version)) STRICT"
        )
        older.execute("INSERT INTO publishes VALUES (x'aa', 'demo', 3, x'01', 100, '{}', 'wss://a')")
    with Journal(path) as journal:
        found = journal.find(b"\xaa", "demo", b"\x01")
        assert found is not None
        assert (found.version, found.expires) == (3, None)
        assert journal.highest(b"\xaa", "demo") == 3
        begun = journal.begin(b"\xaa", "demo", b"\x02", above=0, created_at=1, card={}, hint="", expires=9)
        assert (begun.version, begun.expires) == (4, 9)


# --- cards


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"about": "\udcff"}, "the card cannot be written as JSON"),
        ({"about": object()}, "the card cannot be written as JSON"),
        ({1: "x"}, "the card cannot be written as JSON"),
        ({"about": json.loads("[" * 64 + "]" * 64)}, "at most 64 levels"),
    ],
)
async def test_unreadable_card_publishes_nothing(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, card: dict[str, object], words: str
) -> None:
    with pytest.raises(CallerError, match=words):
        await publish([scripted.url], tmp_path, key, tiny_sources(), card=card)
    assert scripted.received == []
    assert not (tmp_path / "state" / "receipts").exists()


async def test_oversized_card_publishes_nothing(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    with pytest.raises(CallerError, match="the card is too long"):
        await publish([scripted.url], tmp_path, key, tiny_sources(), card={"about": "x" * 65_536})
    assert scripted.received == []


async def test_no_task_outlives_a_publish(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    before = asyncio.all_tasks()
    await publish([scripted.url], tmp_path, key, tiny_sources())
    assert asyncio.all_tasks() == before
