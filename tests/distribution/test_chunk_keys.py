"""Releases whose chunks a throw-away key signed."""

import contextlib
import io
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.independent_reader.reader import Reader
from support.models import side_files
from support.releases import checkpoint_bytes, clock, fetch, many_sources, publish, source, tiny_sources
from support.scripted_relay import ScriptedRelay, scripted_relay

from distribution.chunk_signatures import ChunkSignatures, make_chunk_key
from distribution.errors import CallerError, NotPublished
from distribution.event_file import open_event_file
from distribution.event_writer import EventWriter
from distribution.events import CHUNK_KIND, HEAD_KIND, RELEASE_KIND
from distribution.fetch import Fetcher
from distribution.journal import Journal
from distribution.local_release import LocalRelease
from distribution.publish import Publisher
from distribution.release_spec import ReleaseSpec
from distribution.reseed import Reseeder
from distribution.source import SourceFile
from distribution.store import Store
from distribution.trust import TrustPolicy
from relay_client.blossom.local_server import LocalBlobServer
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey
from relay_client.local_relay import LocalRelay
from relay_client.nip19 import AddressReference
from relay_client.pool import Pool
from relay_client.relay_limits import RelayLimits

CHUNK_SECRET = bytes.fromhex("c4" * 32)


@pytest.fixture
def chunk_key() -> SecretKey:
    return SecretKey(CHUNK_SECRET)


class CountingSigner:
    """A remote signer that counts what it is asked to sign."""

    def __init__(self, key: SecretKey) -> None:
        self._key = key
        self.pubkey = key.pubkey
        self.kinds: list[int] = []

    async def sign_event(self, draft: EventDraft) -> Event:
        self.kinds.append(draft.kind)
        return draft.sign(self._key)


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
    spec, written = spec_of(tiny_sources()), tmp_path / "release.jsonl"
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


def spec_of(files: Iterable[SourceFile]) -> ReleaseSpec:
    return ReleaseSpec(files=tuple(files), name="demo", format="RGPT0003", card={})


async def test_person_signs_few_events(tmp_path: Path, key: SecretKey, chunk_key: SecretKey) -> None:
    signer = CountingSigner(key)
    path = tmp_path / "state" / "journal.sqlite"
    with Journal(path) as journal:
        publisher = Publisher(pool=Pool([]), journal=journal, key=signer, now=clock, chunk_key=chunk_key)
        await publisher.write(spec_of(many_sources(40)), io.BytesIO())
        assert signer.kinds == [CHUNK_KIND, RELEASE_KIND, HEAD_KIND]
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("UPDATE publishes SET part_size = 300")  # cut the manifest smaller
        signer.kinds.clear()
        written = await publisher.write(spec_of(many_sources(40)), io.BytesIO())
    parts = len(written.release.manifest_ids)
    assert parts > 8
    assert signer.kinds == [CHUNK_KIND] * parts + [RELEASE_KIND, HEAD_KIND]


@pytest.mark.full
async def test_person_signs_at_most_15_events_of_172_mb(
    relay: str, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    data = b"".join(number.to_bytes(8, "big") * 5_760 for number in range(3_733)) + bytes(20_000)
    assert 172_000_000 < len(data) < 173_000_000
    files = [source("checkpoint.bin", "checkpoint", data, [("weights", len(data))]), *tiny_sources()[1:]]
    signer = CountingSigner(key)
    with Journal(tmp_path / "state" / "journal.sqlite") as journal:
        async with Pool([relay]) as pool, LocalBlobServer(folder=tmp_path / "blobs") as server:
            publisher = Publisher(pool=pool, journal=journal, key=signer, now=clock, chunk_key=chunk_key)
            published = await publisher.publish(spec_of(files))
            assert published.events > 3_700
            assert len(signer.kinds) <= 15
            fetched = await fetch([relay], tmp_path / "b", AddressReference(author=key.pubkey, name="demo"))
            assert fetched.release.file("checkpoint").local_path.read_bytes() == data
            signer.kinds.clear()
            await replace(publisher, servers=[server.origin]).publish(replace(spec_of(files), new_version=True))
            assert len(signer.kinds) <= 15


async def test_rerun_asks_the_person_for_the_head_only(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    signer = CountingSigner(key)

    async def publish_again(url: str) -> bytes:
        signer.kinds.clear()
        with Journal(tmp_path / "state" / "journal.sqlite") as journal:
            async with Pool([url]) as pool:
                publisher = Publisher(pool=pool, journal=journal, key=signer, now=clock, chunk_key=chunk_key)
                return (await publisher.publish(spec_of(tiny_sources()))).release.id

    scripted.accept = lambda event: (event["pubkey"] == key.pubkey.hex(), "blocked: later")
    with pytest.raises(NotPublished):
        await publish_again(scripted.url)
    assert signer.kinds == [CHUNK_KIND, RELEASE_KIND]
    scripted.accept = lambda _event: (True, "")
    first = await publish_again(scripted.url)
    assert signer.kinds == [HEAD_KIND]
    async with scripted_relay() as added:
        assert await publish_again(added.url) == first
        assert signer.kinds == [HEAD_KIND]
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "journal.sqlite", isolation_level=None)) as database:
        database.execute("UPDATE signatures SET signature = zeroblob(64)")
    async with scripted_relay() as added:
        assert await publish_again(added.url) == first
    assert signer.kinds == [CHUNK_KIND, RELEASE_KIND, HEAD_KIND]


async def test_remote_signer_needs_another_chunk_key(tmp_path: Path, key: SecretKey) -> None:
    signer = CountingSigner(key)
    assert make_chunk_key(key) is None
    assert make_chunk_key(signer, throwaway=False) is None
    made = make_chunk_key(signer)
    assert made is not None
    assert made.pubkey != key.pubkey
    with Journal(tmp_path / "state" / "journal.sqlite") as journal:
        local = Publisher(pool=Pool([]), journal=journal, key=key, now=clock)
        with pytest.raises(CallerError, match="--chunk-key throwaway"):
            replace(local, key=signer)
        await local.write(spec_of(tiny_sources()), io.BytesIO())
        remote = replace(local, key=signer, chunk_key=made)
        with pytest.raises(CallerError, match="chunks signed by a local key"):
            await remote.write(spec_of(tiny_sources()), io.BytesIO())
    assert CHUNK_KIND not in signer.kinds


async def test_relay_of_listed_authors_refuses_with_advice(
    free_port: int, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    async with LocalRelay(port=free_port, limits=RelayLimits(authors=frozenset({key.pubkey}))) as relay:
        with pytest.raises(NotPublished, match=r"not on the relay's list.*--new-version --chunk-key author"):
            await publish([relay.url], tmp_path, key, tiny_sources(), chunk_key=chunk_key)
        with Journal(tmp_path / "b" / "journal.sqlite") as journal:
            async with Pool([relay.url]) as pool:
                remote = Publisher(pool=pool, journal=journal, key=CountingSigner(key), now=clock, chunk_key=chunk_key)
                with pytest.raises(NotPublished, match="listed keys only, send the files to a Blossom server"):
                    await remote.publish(spec_of(tiny_sources()))
        await publish([relay.url], tmp_path, key, tiny_sources(), new_version=True)


async def test_chunks_are_added_to_a_release_on_servers(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    async with LocalBlobServer(folder=tmp_path / "blobs") as server:
        servers = [server.origin]
        first = await publish(
            [scripted.url], tmp_path, key, tiny_sources(), servers=servers, send_chunks=False, chunk_key=chunk_key
        )
        assert chunks_by(scripted, chunk_key) == []
        fetched = await fetch([scripted.url], tmp_path / "b", first.release.id, servers=servers)
        assert fetched.chunks.servers[server.origin].bytes > 0
        await publish([scripted.url], tmp_path, key, tiny_sources(), servers=servers)
    assert len(chunks_by(scripted, chunk_key)) == 5
    again = await fetch([scripted.url], tmp_path / "c", first.release.id)
    assert again.chunks.relays == {scripted.url: 5}


def test_file_changed_after_signing_is_refused(chunk_key: SecretKey) -> None:
    signatures = ChunkSignatures.make(chunk_key, [bytes(32)])
    draft = EventDraft(kind=CHUNK_KIND, created_at=1, content="changed")
    with pytest.raises(CallerError, match="changed while it was being published"):
        draft.sign(signatures)


async def test_independent_reader_reads_the_chunks(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, chunk_key: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path, key, tiny_sources(), chunk_key=chunk_key)

    def ask(wanted: dict[str, Any]) -> list[dict[str, Any]]:
        return [scripted.events[each] for each in wanted.get("ids", ()) if each in scripted.events]

    files = Reader(ask, clock()).read(published.release.id.hex())
    assert files == {"checkpoint_best.bin": checkpoint_bytes(), **side_files()}
