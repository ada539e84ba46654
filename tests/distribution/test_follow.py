"""Following a name: over real relays that come and go, and over scripted ones that lie."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
import pytest
from support.following import Follow
from support.releases import clock, publish, tiny_sources, visible
from support.scripted_relay import RawEvent, ScriptedRelay

from distribution.errors import Equivocation, NotTrusted, Rollback
from distribution.events import CHUNK_KIND, HEAD_KIND, RELEASE_KIND, Release, head_draft
from distribution.follow import Failed, Installed, Skipped, VersionRevoked
from distribution.revocation import REVOCATION_KIND, revocation_draft
from distribution.store import Store
from relay_client.event import Event
from relay_client.keys import SecretKey
from relay_client.local_relay import LocalRelay
from relay_client.pool import Pool


async def version(urls: Sequence[str], tmp_path: Path, key: SecretKey, seed: int) -> Release:
    return (await publish(urls, tmp_path / "author", key, tiny_sources(seed=seed))).release


async def send(url: str, event: Event) -> None:
    async with Pool([url]) as pool:
        await pool.publish([(event, [url])])


# --- live


async def test_each_new_version_is_installed_once(relay: str, tmp_path: Path, key: SecretKey) -> None:
    first = await version([relay], tmp_path, key, 1)
    async with Follow([relay], tmp_path / "home", key.pubkey).running() as follow:
        await follow.until(lambda: follow.installed == [1])
        assert follow.store.current() == first.id
        latest = first
        for seed in (2, 3):
            latest = await version([relay], tmp_path, key, seed)
            await follow.until(partial(follow.has_installed, seed))
            assert follow.store.current() == latest.id
        for at in range(3):  # the same again, dated later: another event, and nothing new
            await send(relay, head_draft(latest, hint="", created_at=clock() + 10 + at).sign(key))
        last = await version([relay], tmp_path, key, 4)
        await follow.until(lambda: follow.store.current() == last.id)
        await follow.until(lambda: follow.installed[-1] == 4)
    assert follow.installed == [1, 2, 3, 4]
    assert all(isinstance(update, Installed) for update in follow.updates)


async def test_relay_that_is_down_is_reconnected(relay: str, tmp_path: Path, key: SecretKey, unused_port: int) -> None:
    other = f"ws://127.0.0.1:{unused_port}"
    await version([relay], tmp_path, key, 1)
    async with Follow([relay, other], tmp_path / "home", key.pubkey).running() as follow:
        await follow.until(lambda: follow.installed == [1])
        await follow.until(follow.live(relay))
        async with LocalRelay(port=unused_port):
            await follow.until(follow.live(relay, other))
            await version([other], tmp_path / "elsewhere", key, 0)  # version 1 too, and another one
            await follow.until(lambda: any(isinstance(update, Failed) for update in follow.updates))
        await follow.until(follow.live(relay))
        await version([relay], tmp_path, key, 2)
        await follow.until(lambda: follow.installed == [1, 2])
    (trouble,) = (update for update in follow.updates if isinstance(update, Failed))
    assert isinstance(trouble.error, Equivocation)


async def test_versions_published_during_an_outage_are_installed(
    tmp_path: Path, key: SecretKey, unused_port: int
) -> None:
    data, url = tmp_path / "relay", f"ws://127.0.0.1:{unused_port}"
    home = tmp_path / "home"
    async with LocalRelay(port=unused_port, folder=data):
        await version([url], tmp_path, key, 1)
        async with Follow([url], home, key.pubkey).running() as follow:
            await follow.until(lambda: follow.installed == [1])
    async with LocalRelay(port=unused_port, folder=data):
        await version([url], tmp_path, key, 2)
        latest = await version([url], tmp_path, key, 3)
    async with Follow([url], home, key.pubkey).running() as follow:
        await follow.until(lambda: any(isinstance(update, Failed) for update in follow.updates))
        async with LocalRelay(port=unused_port, folder=data):
            await follow.until(lambda: follow.installed == [3])
        assert follow.store.current() == latest.id


async def test_status_file_shows_relays_and_version(relay: str, tmp_path: Path, key: SecretKey) -> None:
    released = await version([relay], tmp_path, key, 1)
    dead = "ws://127.0.0.1:1"
    async with Follow([relay, dead], tmp_path / "home", key.pubkey).running() as follow:
        await follow.until(lambda: follow.status().get("last_install") is not None)
        await follow.until(follow.live(relay))
        await follow.until(lambda: f"{dead}: " in str(follow.status()["relays"]))
        status = follow.status()
    assert (status["running"], status["version"]) == (True, 1)
    assert isinstance(status["last_install"], dict)
    assert status["last_install"]["release"] == released.id.hex()
    assert follow.status()["running"] is False


# --- what the user decides


async def test_notify_only_reports_each_version_once(relay: str, tmp_path: Path, key: SecretKey) -> None:
    released = await version([relay], tmp_path, key, 1)
    async with Follow([relay], tmp_path / "home", key.pubkey, notify_only=True).running() as follow:
        await follow.until(lambda: bool(follow.updates))
        await send(relay, head_draft(released, hint="", created_at=clock() + 10).sign(key))
        await version([relay], tmp_path, key, 2)
        await follow.until(lambda: len(follow.updates) > 1)
    assert [update.release.version for update in follow.updates if isinstance(update, Skipped)] == [1, 2]
    assert not (tmp_path / "home" / "store" / "blobs").exists()
    assert (await Follow([relay], tmp_path / "home", key.pubkey).follower.catch_up()) is not None


async def test_pinned_release_stays_current(relay: str, tmp_path: Path, key: SecretKey) -> None:
    home = tmp_path / "home"
    first = await version([relay], tmp_path, key, 1)
    assert isinstance(await Follow([relay], home, key.pubkey).follower.catch_up(), Installed)
    await Store(home).pin(first.id)
    await version([relay], tmp_path, key, 2)
    before = visible(home)
    update = await Follow([relay], home, key.pubkey).follower.catch_up()
    assert isinstance(update, Skipped)
    assert "pinned" in update.reason
    assert {path for path, data in visible(home).items() if before.get(path) != data} == {"state/seen.json"}
    await Store(home).pin(first.id, pinned=False)
    assert isinstance(await Follow([relay], home, key.pubkey).follower.catch_up(), Installed)


async def test_chosen_release_stays_until_a_newer_version(relay: str, tmp_path: Path, key: SecretKey) -> None:
    home = tmp_path / "home"
    releases = []
    for seed in (1, 2):
        releases.append(await version([relay], tmp_path, key, seed))
        assert isinstance(await Follow([relay], home, key.pubkey).follower.catch_up(), Installed)
    await Store(home).use(releases[0].id)
    for _ in range(2):
        assert await Follow([relay], home, key.pubkey).follower.catch_up() is None
    assert Store(home).current() == releases[0].id
    newer = await version([relay], tmp_path, key, 3)
    assert isinstance(await Follow([relay], home, key.pubkey).follower.catch_up(), Installed)
    assert Store(home).current() == newer.id


async def test_choice_made_during_a_download_wins(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    home = tmp_path / "home"
    releases = []
    for seed in (1, 2):
        releases.append(await version([scripted.url], tmp_path, key, seed))
        assert isinstance(await Follow([scripted.url], home, key.pubkey).follower.catch_up(), Installed)
    await version([scripted.url], tmp_path, key, 3)

    def choose(event: RawEvent) -> RawEvent:
        if event["kind"] == CHUNK_KIND:
            Store(home).activate(releases[0].id)
        return event

    scripted.deliver = choose
    assert await Follow([scripted.url], home, key.pubkey).follower.catch_up() is None
    assert Store(home).current() == releases[0].id


async def test_pushed_head_is_queried_until_available(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    await version([scripted.url], tmp_path, key, 1)
    second = await version([scripted.url], tmp_path, key, 2)
    asked = 0

    def late(event: RawEvent) -> RawEvent | None:
        nonlocal asked
        if event["kind"] != HEAD_KIND or ["version", "2"] not in event["tags"] or "#d" not in scripted.requests[-1]:
            return event
        asked += 1
        return event if asked > 3 else None

    scripted.deliver = late
    async with Follow([scripted.url], tmp_path / "home", key.pubkey).running() as follow:
        await follow.until(lambda: follow.installed[-1:] == [2])
    assert follow.store.current() == second.id


# --- lies, and revocations


async def test_old_head_is_refused_after_a_restart(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    home = tmp_path / "home"
    await version([scripted.url], tmp_path, key, 1)
    await version([scripted.url], tmp_path, key, 2)
    assert isinstance(await Follow([scripted.url], home, key.pubkey).follower.catch_up(), Installed)
    for path in (home / "store").rglob("*"):
        if path.is_file():
            path.unlink()
    before = visible(home)
    withheld = [["version", "2"]]
    scripted.deliver = lambda e: None if e["kind"] == HEAD_KIND and withheld[0] in e["tags"] else e
    with pytest.raises(Rollback):
        await Follow([scripted.url], home, key.pubkey).follower.catch_up()
    assert visible(home) == before
    scripted.deliver = lambda event: event
    update = await Follow([scripted.url], home, key.pubkey).follower.catch_up()
    assert isinstance(update, Installed)
    assert update.release.version == 2
    shutil.rmtree(home / "store" / "releases")
    assert isinstance(await Follow([scripted.url], home, key.pubkey).follower.catch_up(), Installed)
    assert await Follow([scripted.url], home, key.pubkey).follower.catch_up() is None


async def test_junk_and_strangers_trigger_no_query(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    released = await version([scripted.url], tmp_path, key, 1)
    theirs = head_draft(replace(released, version=9), hint="", created_at=clock()).sign(stranger)
    forged = {**orjson.loads(theirs.to_json()), "pubkey": key.pubkey.hex()}
    scripted.junk = [{"id": "x"}, orjson.loads(theirs.to_json()), forged]
    async with Follow([scripted.url], tmp_path / "home", key.pubkey).running() as follow:
        await follow.until(lambda: follow.installed == [1])
        await follow.until(follow.live(scripted.url))
        assert not follow.follower._lags_heads()
    assert follow.store.current() == released.id
    assert follow.installed == [1]


async def test_release_of_another_author_is_refused(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    await version([scripted.url], tmp_path, key, 1)
    scripted.requests.clear()
    with pytest.raises(NotTrusted):
        await Follow([scripted.url], tmp_path / "home", key.pubkey, trusted=stranger.pubkey).follower.catch_up()
    assert scripted.requests == []
    assert visible(tmp_path / "home") == {}


async def test_revoked_release_is_replaced_by_the_version_before(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    home = tmp_path / "home"
    releases = []
    for seed in (1, 2):
        releases.append(await version([scripted.url], tmp_path, key, seed))
        assert isinstance(await Follow([scripted.url], home, key.pubkey).follower.catch_up(), Installed)
    revocation = revocation_draft(releases[1].id, reason="", created_at=clock()).sign(key)
    scripted.events[revocation.id.hex()] = orjson.loads(revocation.to_json())
    pinned = Store(home)
    await pinned.pin(releases[1].id)
    assert isinstance(await Follow([scripted.url], home, key.pubkey).follower.catch_up(), Skipped)
    assert pinned.current() == releases[1].id
    await pinned.pin(releases[1].id, pinned=False)
    update = await Follow([scripted.url], home, key.pubkey).follower.catch_up()
    assert isinstance(update, Installed)
    assert Store(home).current() == releases[0].id
    assert await Follow([scripted.url], home, key.pubkey).follower.catch_up() is None
    await version([scripted.url], tmp_path, key, 3)
    update = await Follow([scripted.url], home, key.pubkey).follower.catch_up()
    assert isinstance(update, Installed)
    assert update.release.version == 3


async def test_pushed_revocation_counts_without_a_query(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    releases = [await version([scripted.url], tmp_path, key, seed) for seed in (1, 2)]
    revocation = revocation_draft(releases[1].id, reason="typo", created_at=clock()).sign(key)
    scripted.events[revocation.id.hex()] = orjson.loads(revocation.to_json())

    def forgetful(event: RawEvent) -> RawEvent | None:
        return None if event["kind"] == REVOCATION_KIND and "#e" in scripted.requests[-1] else event

    scripted.deliver = forgetful
    async with Follow([scripted.url], tmp_path / "home", key.pubkey).running() as follow:
        await follow.until(lambda: follow.store.current() == releases[0].id)
    reported = VersionRevoked(release_id=releases[1].id, name="demo", version=2, reason="typo")
    assert reported in follow.updates
    assert releases[1].id in follow.store.seen_versions.seen(key.pubkey, "demo").revoked


async def test_release_with_late_chunks_is_installed(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    released = await version([scripted.url], tmp_path, key, 1)
    late = {event_id: event for event_id, event in scripted.events.items() if event["kind"] != HEAD_KIND}
    for event_id in late:
        del scripted.events[event_id]
    async with Follow([scripted.url], tmp_path / "home", key.pubkey).running() as follow:
        await follow.until(lambda: bool(follow.updates))
        assert follow.store.current() is None
        scripted.events.update(late)
        await follow.until(lambda: follow.installed == [1])
    assert follow.store.current() == released.id
    assert RELEASE_KIND in {event["kind"] for event in late.values()}
    assert len(follow.updates) == 2


async def test_revocation_is_reported_with_its_reason(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    releases = [await version([scripted.url], tmp_path, key, seed) for seed in (1, 2)]
    home = tmp_path / "home"
    await Follow([scripted.url], home, key.pubkey).follower.catch_up()
    revocation = revocation_draft(releases[1].id, reason="wrong\ntext", created_at=clock()).sign(key)
    scripted.events[revocation.id.hex()] = orjson.loads(revocation.to_json())
    for expected in (["wrong text"], []):  # a restart does not repeat it
        async with Follow([scripted.url], home, key.pubkey).running() as follow:
            await follow.until(lambda: follow.store.current() == releases[0].id and bool(follow.follower._known))
        told = [update for update in follow.updates if isinstance(update, VersionRevoked)]
        assert [update.reason for update in told] == expected
        assert all((update.version, update.release_id) == (2, releases[1].id) for update in told)


async def test_catching_up_reports_a_revocation_once(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    releases = [await version([scripted.url], tmp_path, key, seed) for seed in (1, 2)]
    revocation = revocation_draft(releases[1].id, reason="wrong text", created_at=clock()).sign(key)
    scripted.events[revocation.id.hex()] = orjson.loads(revocation.to_json())
    told = []
    for _ in range(2):
        follow = Follow([scripted.url], tmp_path / "home", key.pubkey)
        await follow.follower.catch_up()
        told += follow.updates
    assert told == [VersionRevoked(release_id=releases[1].id, name="demo", version=2, reason="wrong text")]
