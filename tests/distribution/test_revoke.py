"""Revoking a release, on a relay that deletes revoked events and on one that does not."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.command import only_line, randygpt
from support.releases import clock, fetch, publish, tiny_sources, visible
from support.scripted_relay import ScriptedRelay

from distribution.errors import CallerError, NotFound, NotPublished, Rollback
from distribution.events import HEAD_KIND, Release
from distribution.revocation import REVOCATION_KIND
from distribution.revoke import Revoked, Revoker
from distribution.store import Store
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference, EventReference
from relay_client.pool import Pool
from relay_client.timeouts import Timeouts


async def revoke(urls: Sequence[str], home: Path, key: SecretKey, which: bytes | AddressReference) -> Revoked:
    reference = EventReference(id=which) if isinstance(which, bytes) else which
    async with Pool(urls, timeouts=Timeouts(readable_first_s=0.001)) as pool:
        return await Revoker(pool=pool, versions=Store(home).seen_versions, key=key, now=clock).revoke(reference)


async def versions(url: str, tmp_path: Path, key: SecretKey, count: int) -> list[Release]:
    return [(await publish([url], tmp_path / "author", key, tiny_sources(seed=n))).release for n in range(count)]


@pytest.fixture
def address(key: SecretKey) -> AddressReference:
    return AddressReference(author=key.pubkey, name="demo")


async def test_head_moves_to_the_version_before(
    relay: str, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    first, second, third = await versions(relay, tmp_path, key, 3)
    home = tmp_path / "home"
    assert (await fetch([relay], home, address)).release.id == third.id
    revoked = await revoke([relay], tmp_path / "author", key, third.id)
    assert (revoked.release.id, revoked.latest and revoked.latest.id) == (third.id, second.id)
    assert (await fetch([relay], home, address)).release.id == second.id
    with pytest.raises(NotFound):
        await fetch([relay], tmp_path / "newcomer", third.id)
    again = await revoke([relay], tmp_path / "author", key, address)
    assert (again.release.id, again.latest and again.latest.id) == (second.id, first.id)
    assert (await fetch([relay], home, address)).release.id == first.id
    fourth = await publish([relay], tmp_path / "author", key, tiny_sources(seed=9))
    assert (await fetch([relay], home, address)).release.id == fourth.release.id


async def test_revoking_an_old_version_keeps_the_latest(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    first, second = await versions(scripted.url, tmp_path, key, 2)
    revoked = await revoke([scripted.url], tmp_path / "author", key, first.id)
    assert revoked.latest
    assert revoked.latest.id == second.id
    assert (await fetch([scripted.url], tmp_path / "home", address)).release.id == second.id


async def test_no_head_is_sent_if_all_is_revoked(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    (only,) = await versions(scripted.url, tmp_path, key, 1)
    scripted.received.clear()
    assert (await revoke([scripted.url], tmp_path / "author", key, address)).latest is None
    assert [scripted.events[event_id]["kind"] for event_id in scripted.received] == [REVOCATION_KIND]
    with pytest.raises(NotFound, match="revoked every version"):
        await fetch([scripted.url], tmp_path / "home", address)
    assert only.version == 1


@pytest.mark.parametrize("machine", ["author", "elsewhere"])
async def test_second_revoke_says_already_revoked(
    relay: str, tmp_path: Path, key: SecretKey, address: AddressReference, machine: str
) -> None:
    first, second = await versions(relay, tmp_path, key, 2)
    assert not (await revoke([relay], tmp_path / "author", key, second.id)).already
    again = await revoke([relay], tmp_path / machine, key, second.id)
    assert (again.release.id, again.already) == (second.id, True)
    assert (await fetch([relay], tmp_path / "home", address)).release.id == first.id


async def test_revoked_files_need_a_new_version(
    relay: str, scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    for url in (relay, scripted.url):
        home = tmp_path / url[-5:]
        (only,) = [(await publish([url], home, key, tiny_sources())).release]
        await revoke([url], home, key, only.id)
        scripted.received.clear()
        with pytest.raises(CallerError, match="version 1 of demo was these files, and is revoked: use --new-version"):
            await publish([url], home, key, tiny_sources())
        assert scripted.received == []
        again = await publish([url], home, key, tiny_sources(), new_version=True)
        assert (await fetch([url], home / "reader", address)).release.id == again.release.id


async def test_only_the_author_can_revoke(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey, address: AddressReference
) -> None:
    (only,) = await versions(scripted.url, tmp_path, key, 1)
    scripted.received.clear()
    for which in (only.id, address):
        with pytest.raises(CallerError, match="another author"):
            await revoke([scripted.url], tmp_path / "home", stranger, which)
    assert scripted.received == []
    assert visible(tmp_path / "home") == {}


async def test_refusing_relay_is_reported_and_no_head_moves(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    *_, second = await versions(scripted.url, tmp_path, key, 2)
    scripted.received.clear()
    scripted.accept = lambda event: (event["kind"] != REVOCATION_KIND, "blocked: no deletions here")
    with pytest.raises(NotPublished, match="no deletions here"):
        await revoke([scripted.url], tmp_path / "author", key, second.id)
    assert HEAD_KIND not in {scripted.events[each]["kind"] for each in scripted.received if each in scripted.events}
    assert Store(tmp_path / "author").seen_versions.seen(key.pubkey, "demo").revoked == frozenset()


async def test_relay_hiding_revocations_is_reported(
    scripted: ScriptedRelay, relay: str, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    home = tmp_path / "home"
    await publish([scripted.url, relay], tmp_path / "author", key, tiny_sources(seed=0))
    latest = await publish([scripted.url, relay], tmp_path / "author", key, tiny_sources(seed=1))
    assert (await fetch([scripted.url, relay], home, address)).release.id == latest.release.id
    swallowed = [event["id"] for event in scripted.events.values() if event["kind"] == HEAD_KIND]  # as others do
    scripted.deliver = lambda e: None if e["kind"] == REVOCATION_KIND or e["id"] in swallowed else e
    revoked = await revoke([scripted.url, relay], tmp_path / "author", key, latest.release.id)
    assert revoked.unconfirmed == {scripted.url}
    assert [report.reason for report in revoked.relays.values()] == ["", ""]
    before = visible(home)
    with pytest.raises(Rollback):
        await fetch([scripted.url], home, address)
    assert visible(home) == before
    assert (await fetch([scripted.url, relay], home, address)).release.version == 1


async def command(home: Path, url: str, *words: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(randygpt, home, "revoke", *words, "--relay", url)
    return done.returncode, done.stdout, done.stderr


def write_key(home: Path, key: SecretKey) -> str:
    path = home / "key"
    path.write_text(key.reveal_nsec())
    path.chmod(0o600)
    return str(path)


@pytest.mark.full
async def test_revoke_command(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    home = tmp_path / "author"
    first, second = await versions(scripted.url, tmp_path, key, 2)
    code, out, err = await command(home, scripted.url, second.id.hex())
    assert (code, out) == (2, "")
    assert "randygpt keys new" in only_line(err)
    key_file = write_key(home, key)
    code, out, err = await command(home, scripted.url, second.id.hex(), "--key-file", key_file, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["latest"] == {"release": first.id.hex(), "version": 1}
    assert json.loads(out)["relays"] == {scripted.url: {"reason": "", "shows_it": True}}


@pytest.mark.full
async def test_revoke_command_names_hiding_relay(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    home = tmp_path / "author"
    (first,) = await versions(scripted.url, tmp_path, key, 1)
    scripted.deliver = lambda event: None if event["kind"] == REVOCATION_KIND else event
    key_file = write_key(home, key)
    code, out, err = await command(home, scripted.url, first.id.hex(), "--key-file", key_file, "--json")
    assert (code, json.loads(out)["relays"][scripted.url]["shows_it"]) == (0, False)
    assert "does not serve it" in only_line(err)
