"""One contract on every relay: publish, fetch, follow, revoke, reseed, find copies."""

import asyncio
from pathlib import Path

import pytest
from support.following import Follow
from support.relays import running_relay
from support.releases import checkpoint_bytes, clock, fetch, publish, source, tiny_sources
from support.scripted_relay import scripted_relay

from distribution.events import CHUNK_KIND
from distribution.follow import Failed
from distribution.heads import heads_filter
from distribution.reseed import Reseeder
from distribution.revoke import Revoker
from distribution.store import Store
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference, EventReference
from relay_client.pool import Pool

pytestmark = pytest.mark.full
WAIT_S = 60
RELAYS = ("embedded, memory", "embedded, disk", "nostr-relay, sqlite", "nostr-relay, lmdb", "npm, sqlite")


@pytest.mark.parametrize("name", RELAYS)
async def test_publish_and_fetch(name: str, tmp_path: Path, free_port: int, key: SecretKey) -> None:
    big = b"".join(bytes([number]) * 46_080 for number in range(130))  # more events than some relays give at once
    async with running_relay(name, tmp_path, free_port) as url:
        first = await publish([url], tmp_path / "a", key, tiny_sources(seed=1))
        again = await publish([url], tmp_path / "a", key, tiny_sources(seed=1))
        sources = [source("big.bin", "checkpoint", big, [("weights", len(big))]), *tiny_sources()[1:]]
        second = await publish([url], tmp_path / "a", key, sources)
        by_name = await fetch([url], tmp_path / "b", AddressReference(author=key.pubkey, name="demo"))
        by_id = await fetch([url], tmp_path / "c", first.release.id)
    assert (again.release.id, again.relays[url].accepted) == (first.release.id, 0)
    assert (by_name.release.id, by_name.release.version) == (second.release.id, 2)
    assert by_name.release.file("checkpoint").local_path.read_bytes() == big
    assert by_id.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes(seed=1)
    assert (by_name.chunks.rejected, by_id.chunks.rejected) == (0, 0)


@pytest.mark.parametrize("name", RELAYS)
async def test_follow_and_revoke(name: str, tmp_path: Path, free_port: int, key: SecretKey) -> None:
    async with running_relay(name, tmp_path, free_port) as url:
        first = (await publish([url], tmp_path / "a", key, tiny_sources(seed=1))).release
        async with Follow([url], tmp_path / "home", key.pubkey).running() as follow:
            await follow.until(lambda: follow.store.current() == first.id)
            await follow.until(follow.live(url))
            second = (await publish([url], tmp_path / "a", key, tiny_sources(seed=2))).release
            await follow.until(lambda: follow.store.current() == second.id)
            async with Pool([url]) as pool:
                revoker = Revoker(pool=pool, versions=Store(tmp_path / "a").seen_versions, key=key, now=clock)
                revoked = await revoker.revoke(EventReference(id=second.id))
            if revoked.unconfirmed:  # nothing then says that going back is right
                await follow.until(lambda: any(isinstance(update, Failed) for update in follow.updates))
                assert follow.store.current() == second.id
            else:
                await follow.until(lambda: follow.store.current() == first.id)
        newcomer = await fetch([url], tmp_path / "newcomer", AddressReference(author=key.pubkey, name="demo"))
    assert revoked.unconfirmed == ({url} if name.startswith("npm") else frozenset())  # it takes them, and keeps none
    assert revoked.latest
    assert revoked.latest.id == first.id == newcomer.release.id


@pytest.mark.parametrize("name", RELAYS)
async def test_stranger_reseeds_a_release(name: str, tmp_path: Path, free_port: int, key: SecretKey) -> None:
    big = b"".join(bytes([number]) * 46_080 for number in range(70))
    sources = [source("big.bin", "checkpoint", big, [("weights", len(big))]), *tiny_sources()[1:]]
    address = AddressReference(author=key.pubkey, name="demo")
    async with running_relay(name, tmp_path, free_port) as url:
        async with scripted_relay() as first:
            release = (await publish([first.url], tmp_path / "author", key, sources)).release
            fetched = await fetch([first.url], tmp_path / "stranger", address)
        async with Pool([url]) as pool:  # the first relay is gone
            seeder = Reseeder(pool, Store(tmp_path / "stranger"), fetched.release, now=clock())
            reseeded = await seeder.reseed()
        assert (reseeded.copies, reseeded.missing, reseeded.relays[url].reason) == (0, 0, "")
        async with Pool([url]) as pool, asyncio.timeout(WAIT_S):
            while not await pool.query(heads_filter(key.pubkey, "demo")):  # noqa: ASYNC110 (a relay is no event)
                await asyncio.sleep(0.1)  # some say OK before an event can be read
        again = await fetch([url], tmp_path / "newcomer", address)
    assert again.release.id == release.id
    assert again.release.file("checkpoint").local_path.read_bytes() == big


@pytest.mark.parametrize("name", RELAYS)
async def test_copies_signed_by_another_key(
    name: str, tmp_path: Path, free_port: int, key: SecretKey, stranger: SecretKey
) -> None:
    async with running_relay(name, tmp_path, free_port) as url, scripted_relay() as full:
        published = await publish([full.url], tmp_path / "a", key, tiny_sources(seed=1))
        wanted = [chunk.event_id for file in published.manifest.files for chunk in file.chunks(46_080)]
        announced = (*published.release.manifest_ids, published.release.id)
        async with Pool([full.url]) as source_pool, Pool([url]) as target:
            for _, raw_event in await source_pool.query(Filter(ids=(*wanted, *announced), limit=50)):
                event = Event.parse(raw_event)
                if event.id in wanted:
                    draft = EventDraft(kind=CHUNK_KIND, created_at=clock(), tags=event.tags, content=event.content)
                    event = draft.sign(stranger)
                await target.publish([(event, [url])])
            async with asyncio.timeout(WAIT_S):
                while not (await target.stored_ids([published.release.id]))[url]:  # noqa: ASYNC110 (a relay is no event)
                    await asyncio.sleep(0.1)  # some say OK before an event can be read
        fetched = await fetch([url], tmp_path / "b", published.release.id)
    assert fetched.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes(seed=1)
