"""Chunks whose events are lost, found as copies signed by another key."""

from pathlib import Path

import orjson
import pytest
from support.releases import checkpoint_bytes, fetch, many_sources, publish, tiny_sources, visible
from support.scripted_relay import RawEvent, ScriptedRelay

from distribution.errors import ChunksMissing, InvalidChunk
from distribution.events import CHUNK_KIND
from distribution.publish import Published
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey
from relay_client.pool import Pool


def chunks(published: Published) -> list[tuple[bytes, bytes]]:
    """Return (event id, SHA-256) of every chunk of the files."""
    return [(chunk.event_id, chunk.sha256) for file in published.manifest.files for chunk in file.chunks(46_080)]


def put(scripted: ScriptedRelay, event: Event) -> None:
    scripted.events[event.id.hex()] = orjson.loads(event.to_json())


def copy(raw_event: RawEvent, signer: SecretKey, *, created_at: int = 1, content: str | None = None) -> Event:
    """Return a chunk event by another author, with the same bytes or with others under the same hash."""
    tags = (("alt", "a copy"), ("x", next(tag[1] for tag in raw_event["tags"] if tag[0] == "x")))
    content = raw_event["content"] if content is None else content
    return EventDraft(kind=CHUNK_KIND, created_at=created_at, tags=tags, content=content).sign(signer)


def replace_by_copies(scripted: ScriptedRelay, published: Published, stranger: SecretKey) -> None:
    for event_id, _ in chunks(published):
        put(scripted, copy(scripted.events.pop(event_id.hex()), stranger))


async def test_release_of_copied_chunks_only_is_fetched(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    replace_by_copies(scripted, published, stranger)
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert fetched.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()
    assert (fetched.chunks.fetched, fetched.chunks.rejected) == (5, 0)
    asked = [wanted for wanted in scripted.requests if "#x" in wanted]
    assert [sorted(wanted["#x"]) for wanted in asked] == [sorted(sha256.hex() for _, sha256 in chunks(published))]
    assert [(wanted["kinds"], wanted["limit"]) for wanted in asked] == [([CHUNK_KIND], 100)]


async def test_copies_are_queried_only_for_missing_events(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert not any("#x" in wanted for wanted in scripted.requests)
    event_id, sha256 = chunks(published)[1]
    put(scripted, copy(scripted.events.pop(event_id.hex()), stranger))
    await fetch([scripted.url], tmp_path / "c", published.release.id)
    assert [wanted["#x"] for wanted in scripted.requests if "#x" in wanted] == [[sha256.hex()]]


async def test_copies_are_found_on_a_real_relay(
    relay: str, scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    replace_by_copies(scripted, published, stranger)
    async with Pool([relay]) as pool:
        await pool.publish([(Event.parse(event), [relay]) for event in scripted.events.values()])
        assert pool.failure_summary() == ""
    fetched = await fetch([relay], tmp_path / "b", published.release.id)
    assert fetched.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()


async def test_junk_with_the_right_x_tag_is_skipped(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    event = scripted.events.pop(chunks(published)[0][0].hex())
    for number in range(20):
        put(scripted, copy(event, stranger, created_at=100 + number, content="AAAA"))
    put(scripted, copy(event, stranger, created_at=99))
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert (fetched.chunks.fetched, fetched.chunks.rejected) == (5, 20)
    assert fetched.misbehaving == []  # the relay cannot know


async def test_many_copies_need_several_queries(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, many_sources(60))
    for event_id, _ in chunks(published):
        event = scripted.events.pop(event_id.hex())
        for number in range(4):
            put(scripted, copy(event, stranger, created_at=number))
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert fetched.chunks.fetched == 62


async def test_junk_for_one_chunk_does_not_hide_others(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, many_sources(60))
    kept = {event_id.hex(): scripted.events.pop(event_id.hex()) for event_id, _ in chunks(published)}
    crowded = next(iter(kept.values()))
    for number in range(100):  # as many as are asked for at once
        put(scripted, copy(crowded, stranger, created_at=300 + number, content="AAAA"))
    for event in kept.values():
        put(scripted, copy(event, stranger, created_at=200))
    with pytest.raises(ChunksMissing, match="1 of 62 chunks"):
        await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert visible(tmp_path / "b") == {}
    scripted.events |= {crowded["id"]: crowded}
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert (fetched.chunks.fetched, fetched.chunks.reused) == (1, 61)


async def test_junk_only_leaves_the_chunk_missing(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    event = scripted.events.pop(chunks(published)[0][0].hex())
    put(scripted, copy(event, stranger, content="AAAA"))
    with pytest.raises(ChunksMissing, match="1 of 5 chunks"):
        await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert visible(tmp_path / "b") == {}


async def test_copy_replaces_a_forged_original(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    event_id = chunks(published)[0][0].hex()
    forged = scripted.events[event_id] | {"content": "AAAA"}
    put(scripted, copy(scripted.events[event_id], stranger))
    scripted.deliver = lambda event: forged if event["id"] == event_id else event
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert (fetched.chunks.rejected, fetched.misbehaving) == (2, [scripted.url])  # it came by its id, and by its hash
    x = ["x", chunks(published)[0][1].hex()]
    scripted.deliver = lambda event: event | {"content": "AAAA"} if x in event["tags"] else event
    with pytest.raises(InvalidChunk):
        await fetch([scripted.url], tmp_path / "c", published.release.id)
    assert visible(tmp_path / "c") == {}
