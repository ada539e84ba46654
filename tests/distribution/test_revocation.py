"""Revocations count if the author signed them, and only then."""

from pathlib import Path

import orjson
import pytest
from support.releases import clock, fetch, publish, tiny_sources, visible
from support.scripted_relay import ScriptedRelay

from distribution.errors import InvalidRelease, NotFound, Rollback
from distribution.events import Release
from distribution.revocation import REVOCATION_KIND, Revocation, revocation_draft
from distribution.store import Store
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference


async def three_versions(relay: ScriptedRelay, tmp_path: Path, key: SecretKey) -> list[Release]:
    return [(await publish([relay.url], tmp_path / "author", key, tiny_sources(seed=n))).release for n in range(3)]


def take_back(relay: ScriptedRelay, release: Release, signer: SecretKey, *, created_at: int | None = None) -> str:
    """Put a revocation on the relay, and return its id."""
    event = revocation_draft(release.id, reason="broken", created_at=created_at or clock()).sign(signer)
    relay.events[event.id.hex()] = orjson.loads(event.to_json())
    return event.id.hex()


@pytest.fixture
def address(key: SecretKey) -> AddressReference:
    return AddressReference(author=key.pubkey, name="demo")


async def test_version_before_a_revoked_one_is_the_latest(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    first, second, third = await three_versions(scripted, tmp_path, key)
    home = tmp_path / "home"
    for release in (first, second):
        await fetch([scripted.url], home, release.id)
    assert (await fetch([scripted.url], home, address)).release.id == third.id
    withdrawn = take_back(scripted, third, key)
    assert (await fetch([scripted.url], home, address)).release.id == second.id
    assert Store(home).current() == second.id
    del scripted.events[withdrawn]  # revoked for good
    assert (await fetch([scripted.url], home, address)).release.id == second.id


async def test_revocation_by_a_stranger_is_ignored(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey, address: AddressReference
) -> None:
    *_, third = await three_versions(scripted, tmp_path, key)
    scripted.junk = [scripted.events[take_back(scripted, third, stranger)]]
    forged = take_back(scripted, third, stranger, created_at=clock() - 1)
    scripted.events[forged]["pubkey"] = key.pubkey.hex()
    assert (await fetch([scripted.url], tmp_path / "home", address)).release.id == third.id


async def test_revocation_from_the_future_is_ignored(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    *_, third = await three_versions(scripted, tmp_path, key)
    take_back(scripted, third, key, created_at=clock() + 2_000)
    assert (await fetch([scripted.url], tmp_path / "home", address)).release.id == third.id


async def test_revocation_does_not_allow_older_rollback(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    first, second, third = await three_versions(scripted, tmp_path, key)
    home = tmp_path / "home"
    for release in (second, third):
        await fetch([scripted.url], home, release.id)
    take_back(scripted, third, key)
    before = visible(home)
    scripted.deliver = lambda event: None if ["version", "2"] in event["tags"] else event
    with pytest.raises(Rollback, match="version 1 of demo is older than 2"):
        await fetch([scripted.url], home, address)
    after = visible(home)
    assert {path for path in before if before[path] != after.get(path)} == {"state/seen.json"}
    take_back(scripted, second, key)
    assert (await fetch([scripted.url], home, address)).release.id == first.id


async def test_nothing_is_found_if_all_is_revoked(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    for release in await three_versions(scripted, tmp_path, key):
        take_back(scripted, release, key)
    with pytest.raises(NotFound, match="revoked every version"):
        await fetch([scripted.url], tmp_path / "home", address)
    assert not (tmp_path / "home" / "store").exists()


def test_revocation_parses_its_event_ids(key: SecretKey) -> None:
    tags = (("e", "ab" * 32, "wss://relay.example"), ("e", "zz"), ("e",), ("a", "x"), ("e", "cd" * 32))
    event = EventDraft(kind=REVOCATION_KIND, created_at=100, tags=tags).sign(key)
    revocation = Revocation.parse(event, now=100)
    assert revocation.event_ids == {bytes.fromhex("ab" * 32), bytes.fromhex("cd" * 32)}
    assert revocation.author == key.pubkey
    with pytest.raises(InvalidRelease, match="kind 1"):
        Revocation.parse(EventDraft(kind=1, created_at=100, tags=tags).sign(key), now=100)
