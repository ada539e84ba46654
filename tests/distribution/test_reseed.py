"""Reseeding an installed release, from any store to relays that never had it."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from support.command import randygpt
from support.releases import WEIGHTS_ONLY, checkpoint_bytes, clock, fetch, publish, tiny_sources, visible
from support.scripted_relay import ScriptedRelay, scripted_relay

from distribution.errors import CallerError, ChunksMissing, NotPublished, StoreError
from distribution.events import CHUNK_KIND, HEAD_KIND, RELEASE_KIND, Release
from distribution.reseed import Reseeded, Reseeder
from distribution.store import Store
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference
from relay_client.pool import Pool
from relay_client.timeouts import Timeouts


async def reseed(urls: Sequence[str], home: Path, release: Release) -> Reseeded:
    store = Store(home)
    installed = store.release(release.id)
    assert installed is not None
    async with Pool(urls, timeouts=Timeouts(readable_first_s=0.001)) as pool:
        return await Reseeder(pool, store, installed, now=clock()).reseed()


@pytest.fixture
async def target() -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as running:
        yield running


@pytest.fixture
async def fetched(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> Release:
    """A release that a friend has fetched by its name, from the only relay that has it."""
    released = (await publish([scripted.url], tmp_path / "author", key, tiny_sources())).release
    await fetch([scripted.url], tmp_path / "friend", AddressReference(author=key.pubkey, name="demo"))
    return released


async def test_authors_events_are_sent(
    scripted: ScriptedRelay, target: ScriptedRelay, fetched: Release, tmp_path: Path, key: SecretKey
) -> None:
    done = await reseed([target.url], tmp_path / "friend", fetched)
    assert (done.total, done.copies, done.missing, done.head) == (len(scripted.events) - 1, 0, 0, True)
    assert target.events == scripted.events
    kinds = [target.events[each]["kind"] for each in target.received]
    assert kinds[-2:] == [RELEASE_KIND, HEAD_KIND]
    address = AddressReference(author=key.pubkey, name="demo")
    again = await fetch([target.url], tmp_path / "newcomer", address)
    assert again.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()


async def test_second_reseed_sends_only_missing_events(target: ScriptedRelay, fetched: Release, tmp_path: Path) -> None:
    await reseed([target.url], tmp_path / "friend", fetched)
    lost = target.received[1]
    del target.events[lost]
    target.received.clear()
    done = await reseed([target.url], tmp_path / "friend", fetched)
    assert target.received == [lost]
    assert done.relays[target.url].accepted == 1


async def test_relay_that_loses_chunks_is_skipped(target: ScriptedRelay, fetched: Release, tmp_path: Path) -> None:
    target.deliver = lambda event: None if event["id"] == target.received[0] else event
    with pytest.raises(NotPublished, match="chunks twice and does not return 1 of them"):
        await reseed([target.url], tmp_path / "friend", fetched)
    assert target.received.count(target.received[0]) == 2
    assert HEAD_KIND not in {event["kind"] for event in target.events.values()}


async def test_reseeded_release_is_fetched_from_a_real_relay(relay: str, fetched: Release, tmp_path: Path) -> None:
    await reseed([relay], tmp_path / "friend", fetched)
    assert (await fetch([relay], tmp_path / "newcomer", fetched.id)).release.id == fetched.id


async def test_chunks_without_valid_signature_are_sent_as_copies(
    target: ScriptedRelay, fetched: Release, tmp_path: Path
) -> None:
    home = tmp_path / "friend"
    path = Store(home).event_archive.folder(fetched.id) / "signatures"
    records = path.read_bytes()
    path.write_bytes(records[: 96 + 40] + bytes(5) + records[96 + 45 : -96] + b"torn")
    done = await reseed([target.url], home, fetched)
    assert (done.copies, done.missing) == (2, 0)
    chunks = [event for event in target.events.values() if event["kind"] == CHUNK_KIND]
    assert len({event["pubkey"] for event in chunks}) == 2
    again = await fetch([target.url], tmp_path / "newcomer", fetched.id)
    assert again.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()
    target.received.clear()
    assert (await reseed([target.url], home, fetched)).copies == 2
    assert target.received == []


async def test_reused_blobs_are_reseeded(
    scripted: ScriptedRelay, target: ScriptedRelay, fetched: Release, tmp_path: Path, key: SecretKey
) -> None:
    second = (await publish([scripted.url], tmp_path / "author", key, tiny_sources(seed=2))).release
    await fetch([scripted.url], tmp_path / "friend", second.id)
    done = await reseed([target.url], tmp_path / "friend", second)
    assert (done.copies, done.head) == (2, False)  # vocabulary and configuration, of the release before
    again = await fetch([target.url], tmp_path / "newcomer", second.id)
    assert again.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes(seed=2)
    assert fetched.version == 1


async def test_damaged_file_is_not_sent(target: ScriptedRelay, fetched: Release, tmp_path: Path) -> None:
    installed = Store(tmp_path / "friend").release(fetched.id)
    assert installed
    local = installed.file("checkpoint").local_path
    local.chmod(0o644)
    local.write_bytes(local.read_bytes()[:-1] + b"\0")
    with pytest.raises(StoreError, match=r"checkpoint_best\.bin: damaged"):
        await reseed([target.url], tmp_path / "friend", fetched)
    (Store(tmp_path / "friend").event_archive.folder(fetched.id) / "manifest.jsonl").unlink()
    with pytest.raises(StoreError, match="fetch it again"):
        await reseed([target.url], tmp_path / "friend", fetched)
    assert target.received == []


async def test_revoked_release_is_not_sent(target: ScriptedRelay, fetched: Release, tmp_path: Path) -> None:
    await Store(tmp_path / "friend").seen_versions.revoke(fetched.author, "demo", {fetched.id})
    with pytest.raises(CallerError, match="revoked this release"):
        await reseed([target.url], tmp_path / "friend", fetched)
    assert target.received == []


async def test_refusing_relay_is_reported(target: ScriptedRelay, fetched: Release, tmp_path: Path) -> None:
    target.accept = lambda _: (False, "blocked: not here")
    before = visible(tmp_path / "friend")
    with pytest.raises(NotPublished, match="not here"):
        await reseed([target.url], tmp_path / "friend", fetched)
    assert visible(tmp_path / "friend") == before


@pytest.mark.full
async def test_reseed_and_verify_commands(
    scripted: ScriptedRelay, target: ScriptedRelay, fetched: Release, tmp_path: Path
) -> None:
    home = tmp_path / "friend"

    async def command(*words: str, url: str = target.url) -> tuple[int, str, str]:
        done = await asyncio.to_thread(randygpt, home, *words, "--relay", url)
        return done.returncode, done.stdout, done.stderr

    code, out, _ = await command("verify", fetched.id.hex(), "--remote", "--json")
    found = json.loads(out)
    assert (code, found["nowhere"], found["relays"]) == (4, 7, {target.url: {"held": 0, "reason": ""}})
    code, out, err = await command("reseed", "demo", "--json")
    assert (code, err, json.loads(out)["events"]) == (0, "", 7)
    code, out, _ = await command("verify", "demo", "--remote", "--relay", scripted.url)
    assert (code, out.count("      7 of 7  ws://127.0.0.1")) == (0, 2)


async def test_weights_only_release_is_reseeded_in_part(
    scripted: ScriptedRelay, target: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    released = (await publish([scripted.url], tmp_path / "author", key, tiny_sources())).release
    home = tmp_path / "friend"
    installed = (await fetch([scripted.url], home, released.id, weights=WEIGHTS_ONLY)).release
    done = await asyncio.to_thread(randygpt, home, "reseed", "demo", "--relay", target.url)
    assert (done.returncode, "2 of 7 events cannot be sent" in done.stdout + done.stderr) == (4, True)
    with pytest.raises(ChunksMissing):
        await fetch([target.url], tmp_path / "newcomer", released.id)
    assert Store(home).is_intact(installed)
