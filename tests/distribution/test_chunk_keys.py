"""Releases whose chunks a throw-away key signed."""

import io
import json
from pathlib import Path

import pytest
from support.releases import checkpoint_bytes, clock, fetch, publish, tiny_sources
from support.scripted_relay import ScriptedRelay, scripted_relay

from distribution.errors import NotPublished
from distribution.event_file import open_event_file
from distribution.event_writer import EventWriter
from distribution.events import CHUNK_KIND, HEAD_KIND, RELEASE_KIND
from distribution.fetch import Fetcher
from distribution.journal import Journal
from distribution.local_release import LocalRelease
from distribution.publish import Publisher
from distribution.release_spec import ReleaseSpec
from distribution.reseed import Reseeder
from distribution.store import Store
from distribution.trust import TrustPolicy
from relay_client.event import Event
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference
from relay_client.pool import Pool

CHUNK_SECRET = bytes.fromhex("c4" * 32)


@pytest.fixture
def chunk_key() -> SecretKey:
    return SecretKey(CHUNK_SECRET)


def chunks_by(relay: ScriptedRelay, key: SecretKey) -> list[str]:
    """Return the ids of the chunk events that a key signed."""
    return [
        event["id"]
        for event in relay.events.values()
        if event["kind"] == CHUNK_KIND and event["pubkey"] == key.pubkey.hex()
    ]


async def test_throwaway_key_signs_chunks_only(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources(), chunk_key=chunk_key)
    assert published.manifest.chunk_author == chunk_key.pubkey
    assert len(chunks_by(scripted, chunk_key)) == 5
    kinds = [event["kind"] for event in scripted.events.values() if event["pubkey"] == key.pubkey.hex()]
    assert kinds == [CHUNK_KIND, RELEASE_KIND, HEAD_KIND]  # the manifest's chunk
    assert all(Event.parse(event) for event in scripted.events.values())
    fetched = await fetch([scripted.url], tmp_path / "b", AddressReference(author=key.pubkey, name="demo"))
    assert fetched.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()


async def test_rerun_makes_the_same_ids(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    scripted.accept = lambda _event: (len(scripted.received) < 3, "blocked: enough")
    with pytest.raises(NotPublished, match="--new-version --chunk-key author"):
        await publish([scripted.url], tmp_path, key, tiny_sources(), chunk_key=chunk_key)
    before = chunks_by(scripted, chunk_key)
    scripted.accept = lambda _event: (True, "")
    first = await publish([scripted.url], tmp_path, key, tiny_sources(), chunk_key=SecretKey.generate())
    assert first.resumed
    chunks = chunks_by(scripted, chunk_key)
    assert (chunks[: len(before)], len(chunks), len(scripted.events)) == (before, 5, 8)
    async with scripted_relay() as added:
        second = await publish([added.url], tmp_path, key, tiny_sources())
        assert second.release.id == first.release.id
        assert {event["id"] for event in added.events.values()} >= set(chunks)


async def test_release_of_the_author_keeps_its_chunks(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    first = await publish([scripted.url], tmp_path, key, tiny_sources())
    again = await publish([scripted.url], tmp_path, key, tiny_sources(), chunk_key=chunk_key)
    assert (again.release.id, again.manifest.chunk_author) == (first.release.id, None)


async def test_secret_is_never_stored(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    seen: list[bytes] = []

    def look(_event: object) -> tuple[bool, str]:
        seen.extend(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        return True, ""

    scripted.accept = look
    await publish([scripted.url], tmp_path, key, tiny_sources(), chunk_key=chunk_key)
    look(None)
    assert any(chunk_key.pubkey in data for data in seen)
    for form in (CHUNK_SECRET, CHUNK_SECRET.hex().encode(), chunk_key.reveal_nsec().encode()):
        assert not any(form in data for data in seen)


async def test_reseed_sends_chunks_under_their_own_signatures(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    await publish([scripted.url], tmp_path / "a", key, tiny_sources(), chunk_key=chunk_key)
    installed = (await fetch([scripted.url], tmp_path, AddressReference(author=key.pubkey, name="demo"))).release
    async with scripted_relay() as target:
        async with Pool([target.url]) as pool:
            done = await Reseeder(pool, Store(tmp_path), installed, now=clock()).reseed()
        assert (done.copies, target.events) == (0, scripted.events)


async def test_event_files_carry_the_chunks(tmp_path: Path, key: SecretKey, chunk_key: SecretKey) -> None:
    spec = ReleaseSpec(files=tuple(tiny_sources()), name="demo", format="RGPT0003", card={})
    written = tmp_path / "release.jsonl"
    with Journal(tmp_path / "state" / "journal.sqlite") as journal, written.open("wb") as file:
        publisher = Publisher(
            pool=Pool(["wss://relay.example"]), journal=journal, key=key, now=clock, chunk_key=chunk_key
        )
        await publisher.write(spec, file)
        again = io.BytesIO()
        await publisher.write(spec, again)
    ids = [Event.parse(line) for line in map(json.loads, written.read_bytes().splitlines())]
    assert [event.id for event in ids] == [
        Event.parse(line).id for line in map(json.loads, again.getvalue().splitlines())
    ]
    assert [event.pubkey for event in ids] == [chunk_key.pubkey] * 5 + [key.pubkey] * 3
    store = Store(tmp_path / "b")
    with open_event_file(written, folder=tmp_path, max_size=1 << 20) as events:
        fetcher = Fetcher(pool=events, store=store, policy=TrustPolicy(), now=clock)
        installed = (await fetcher.fetch(AddressReference(author=key.pubkey, name="demo"))).release
    exported = io.BytesIO()
    done = EventWriter(exported).write_installed(LocalRelease(store, installed, now=clock()))
    assert (done.copies, done.missing) == (0, 0)
    assert sorted(exported.getvalue().splitlines()) == sorted(written.read_bytes().splitlines())
