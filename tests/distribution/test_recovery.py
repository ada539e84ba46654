"""A name recovers from heads that name nothing, and from publishes under a wrong clock."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.releases import clock, fetch, publish, tiny_sources
from support.scripted_relay import RawEvent, ScriptedRelay, scripted_relay

from distribution.clock import check_clock
from distribution.errors import CallerError, InvalidRelease, NotFound, NotPublished
from distribution.events import HEAD_KIND, MAX_VERSION, RELEASE_KIND
from distribution.revocation import REVOCATION_KIND
from distribution.revoke import Revoked, Revoker
from distribution.store import Store
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference, EventReference
from relay_client.pool import Pool
from relay_client.timeouts import Timeouts

QUICK = Timeouts(readable_first_s=0.001, patience_s=0)
DAY_S = 86_400


def tomorrow() -> int:
    return clock() + DAY_S


@pytest.fixture
def address(key: SecretKey) -> AddressReference:
    return AddressReference(author=key.pubkey, name="demo")


@pytest.fixture
async def strict() -> AsyncIterator[ScriptedRelay]:
    """A relay that keeps the newest head of a name, and deletes what the author asks it to delete (NIP-09)."""
    async with scripted_relay() as relay:

        def accept(event: RawEvent) -> tuple[bool, str]:
            heads = [each for each in relay.events.values() if each["kind"] == HEAD_KIND]
            if event["kind"] == HEAD_KIND:
                order = (event["created_at"], -int(event["id"], 16))
                if any((each["created_at"], -int(each["id"], 16)) > order for each in heads):
                    return False, "duplicate: have a newer head"
                for each in heads:
                    del relay.events[each["id"]]
            if event["kind"] == REVOCATION_KIND:
                for tag in event["tags"]:
                    relay.events.pop(tag[1], None)
            return True, ""

        relay.accept = accept
        yield relay


def put_head(relay: ScriptedRelay, key: SecretKey, *, version: int, created_at: int) -> bytes:
    """Replace the head of a relay by one that names nothing; return the id that it names."""
    tags = (("d", "demo"), ("e", "ab" * 32), ("version", str(version)), ("x", "cd" * 32))
    head = EventDraft(kind=HEAD_KIND, created_at=created_at, tags=tags).sign(key)
    for event in [each for each in relay.events.values() if each["kind"] == HEAD_KIND]:
        del relay.events[event["id"]]
    relay.events[head.id.hex()] = dict(head.to_dict())
    return bytes.fromhex("ab" * 32)


async def revoke(url: str, home: Path, key: SecretKey, which: bytes | AddressReference) -> Revoked:
    reference = EventReference(id=which) if isinstance(which, bytes) else which
    async with Pool([url], timeouts=QUICK) as pool:
        return await Revoker(pool=pool, versions=Store(home).seen_versions, key=key, now=clock).revoke(reference)


async def publish_tomorrow(relay: ScriptedRelay, home: Path, key: SecretKey, seed: int = 0) -> None:
    relay.clock_offset_s = DAY_S
    await publish([relay.url], home, key, tiny_sources(seed=seed), now=tomorrow, timeouts=QUICK)
    relay.clock_offset_s = 0


# --- heads that name nothing


async def test_publish_replaces_a_head_that_names_nothing(
    strict: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    await publish([strict.url], tmp_path / "a", key, tiny_sources(seed=0))
    put_head(strict, key, version=MAX_VERSION, created_at=clock() + 60)
    published = await publish([strict.url], tmp_path / "a", key, tiny_sources(seed=1), timeouts=QUICK)
    assert published.release.version == 2
    assert (await fetch([strict.url], tmp_path / "b", address)).release.id == published.release.id


@pytest.mark.parametrize("by_id", [True, False])
async def test_revoke_removes_a_head_that_names_nothing(
    strict: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference, *, by_id: bool
) -> None:
    published = await publish([strict.url], tmp_path / "a", key, tiny_sources())
    named = put_head(strict, key, version=MAX_VERSION, created_at=clock() + 60)
    with pytest.raises(NotFound):
        await fetch([strict.url], tmp_path / "b", address)
    revoked = await revoke(strict.url, tmp_path / "a", key, named if by_id else address)
    assert (revoked.release.id, revoked.release.version) == (named, MAX_VERSION)
    assert (await fetch([strict.url], tmp_path / "b", address)).release.id == published.release.id


async def test_revoke_without_another_version_deletes_the_head(
    strict: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    put_head(strict, key, version=MAX_VERSION, created_at=clock())
    assert (await revoke(strict.url, tmp_path / "a", key, address)).latest is None
    assert {event["kind"] for event in strict.events.values()} == {REVOCATION_KIND}


# --- clocks


@pytest.mark.parametrize(("offset_s", "words"), [(DAY_S, "24.0 hours fast"), (-1_200, "20 minutes slow")])
async def test_wrong_clock_sends_nothing(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, offset_s: int, words: str
) -> None:
    with pytest.raises(CallerError, match=words):
        await publish([scripted.url], tmp_path, key, tiny_sources(), now=lambda: clock() + offset_s)
    scripted.clock_offset_s = -offset_s
    with pytest.raises(CallerError, match=words):
        await revoke(scripted.url, tmp_path, key, bytes(32))
    assert scripted.received == []
    assert not (tmp_path / "state" / "receipts").exists()


def test_one_relay_of_two_cannot_stop_a_publish() -> None:
    check_clock([1_000_000, 2_000_000], now=1_000_000)
    check_clock([1_000_000, None, 1_000_900, 1_000_300], now=1_000_000)
    with pytest.raises(CallerError, match="slow"):
        check_clock([1_000_000, 2_000_000, 2_000_100], now=1_000_000)


async def test_publish_recovers_a_name_from_the_future(
    strict: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    await publish_tomorrow(strict, tmp_path / "a", key)
    with pytest.raises(InvalidRelease, match="in the future"):
        await fetch([strict.url], tmp_path / "b", address)
    again = await publish([strict.url], tmp_path / "a", key, tiny_sources(), timeouts=QUICK)
    assert (again.release.version, again.resumed) == (2, False)
    assert (await fetch([strict.url], tmp_path / "b", address)).release.id == again.release.id
    elsewhere = await publish([strict.url], tmp_path / "c", key, tiny_sources(seed=1), timeouts=QUICK)
    assert elsewhere.release.version == 3


async def test_revoke_recovers_a_name_from_the_future(
    strict: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    first = await publish([strict.url], tmp_path / "a", key, tiny_sources(seed=0))
    await publish_tomorrow(strict, tmp_path / "a", key, seed=1)
    revoked = await revoke(strict.url, tmp_path / "a", key, address)
    assert revoked.release.version == 2
    assert (await fetch([strict.url], tmp_path / "b", address)).release.id == first.release.id


async def test_head_from_the_future_recovers_on_a_real_relay(
    relay: str, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    first = await publish([relay], tmp_path / "a", key, tiny_sources(seed=0))
    await publish([relay], tmp_path / "a", key, tiny_sources(seed=1), now=tomorrow)
    with pytest.raises(CallerError, match=r"version 2 of demo is dated 2[34]\.[09] hours in the future"):
        await publish([relay], tmp_path / "a", key, tiny_sources(seed=2))
    await revoke(relay, tmp_path / "a", key, address)
    assert (await fetch([relay], tmp_path / "b", address)).release.id == first.release.id
    last = await publish([relay], tmp_path / "a", key, tiny_sources(seed=2))
    assert (await fetch([relay], tmp_path / "b", address)).release.id == last.release.id


async def test_relay_that_keeps_a_head_from_the_future_is_named(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    put_head(scripted, key, version=1, created_at=tomorrow())
    scripted.deliver = lambda event: (
        event if event["created_at"] >= tomorrow() - 60 or event["kind"] != HEAD_KIND else None
    )
    with pytest.raises(NotPublished, match="keeps a head of demo that is dated in the future"):
        await publish([scripted.url], tmp_path, key, tiny_sources(), timeouts=QUICK)


async def test_refusal_over_a_date_mentions_the_clock(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    scripted.accept = lambda _event: (False, "invalid: created_at is too far in the future")
    with pytest.raises(NotPublished, match="check this machine's clock"):
        await publish([scripted.url], tmp_path, key, tiny_sources())


async def test_publishes_at_once_end_with_the_highest_version(
    strict: ScriptedRelay, tmp_path: Path, key: SecretKey, address: AddressReference
) -> None:
    at = clock()
    done = await asyncio.gather(
        *(
            publish([strict.url], tmp_path / "a", key, tiny_sources(seed=seed), now=lambda: at, timeouts=QUICK)
            for seed in range(3)
        )
    )
    assert sorted(each.release.version for each in done) == [1, 2, 3]
    assert (await fetch([strict.url], tmp_path / "b", address)).release.version == 3


async def test_endless_rival_publishes_are_named(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    other = await publish([scripted.url], tmp_path / "a", key, tiny_sources(seed=0))
    (rival,) = (event for event in scripted.events.values() if event["kind"] == HEAD_KIND)

    def deliver(event: RawEvent) -> RawEvent | None:
        return rival_head(event, key) if event["kind"] == HEAD_KIND else event

    def rival_head(event: RawEvent, key: SecretKey) -> RawEvent:
        tags = tuple(tuple(tag) for tag in rival["tags"])
        made = EventDraft(kind=HEAD_KIND, created_at=event["created_at"] + 1, tags=tags).sign(key)
        return dict(made.to_dict())

    scripted.deliver = deliver
    with pytest.raises(NotPublished, match="another publish of demo replaced the head; run this again"):
        await publish([scripted.url], tmp_path / "a", key, tiny_sources(seed=1), timeouts=QUICK)
    assert other.release.version == 1
    assert len([event for event in scripted.events.values() if event["kind"] == RELEASE_KIND]) == 2
