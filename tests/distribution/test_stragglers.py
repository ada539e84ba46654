"""Publishing, revoking, reseeding and following while one relay is slow or hostile: the others have the result."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.following import Follow
from support.releases import clock, fetch, publish, tiny_sources
from support.scripted_relay import RawEvent, ScriptedRelay, stall

from distribution.events import HEAD_KIND, RELEASE_KIND
from distribution.follow import Installed
from distribution.publish import Published
from distribution.reseed import Reseeder
from distribution.revocation import REVOCATION_KIND
from distribution.revoke import Revoker
from distribution.store import Store
from relay_client.keys import SecretKey
from relay_client.nip19 import EventReference
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport
from relay_client.settle import TOO_SLOW
from relay_client.timeouts import Timeouts

GIVE_UP_S = 20  # a test that waits this long has failed
PATIENT = Timeouts(answer_s=1_000, request_s=1_000, connect_s=1_000, straggler_s=0.1, settle_s=0.1)

STAGES: dict[str, Callable[[RawEvent], bool]] = {
    "heads": lambda what: HEAD_KIND in what.get("kinds", []),
    "read-back": lambda what: "ids" in what,
    "release": lambda what: what.get("kind") == RELEASE_KIND,
    "head": lambda what: what.get("kind") == HEAD_KIND,
    "revocation": lambda what: what.get("kind") == REVOCATION_KIND,
    "revocations": lambda what: REVOCATION_KIND in what.get("kinds", []),
}


def check_reports(reports: Mapping[str, RelayReport], relays: list[ScriptedRelay]) -> None:
    """Assert that the second relay was dropped for its slowness, and the first was not."""
    honest, slow = (reports[relay.url] for relay in relays)
    assert (honest.in_use, honest.reason) == (True, "")
    assert (slow.in_use, slow.reason) == (False, f"{relays[1].url}: {TOO_SLOW}")


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("heads", "mute"), ("heads", "EVENT"), ("read-back", "AUTH"), ("release", "mute"), ("head", "AUTH")],
)
async def test_publish_drops_slow_relay(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, key: SecretKey, stage: str, kind: str
) -> None:
    stall(relays[1], kind, STAGES[stage])
    async with asyncio.timeout(GIVE_UP_S):
        done = await publish(
            [relay.url for relay in relays], tmp_path / "author", key, tiny_sources(seed=1), timeouts=PATIENT
        )
    check_reports(done.relays, relays)
    assert (await fetch([relays[0].url], tmp_path, done.release.id)).release.version == published.release.version + 1


async def test_check_drops_slow_relay(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, key: SecretKey
) -> None:
    stall(relays[1], "EVENT", STAGES["read-back"])
    urls = [relay.url for relay in relays]
    async with asyncio.timeout(GIVE_UP_S):
        done = await publish(urls, tmp_path / "author", key, tiny_sources(), check=True, timeouts=PATIENT)
    assert done.release.id == published.release.id
    check_reports(done.relays, relays)


@pytest.mark.parametrize("stage", ["heads", "read-back", "revocations", "revocation"])
async def test_revoke_drops_slow_relay(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, key: SecretKey, stage: str
) -> None:
    stall(relays[1], "AUTH", STAGES[stage])
    async with asyncio.timeout(GIVE_UP_S), Pool([relay.url for relay in relays], timeouts=PATIENT) as pool:
        revoker = Revoker(pool=pool, versions=Store(tmp_path).seen_versions, key=key, now=clock)
        revoked = await revoker.revoke(EventReference(id=published.release.id))
    check_reports(revoked.relays, relays)


async def test_reseed_drops_slow_relay(relays: list[ScriptedRelay], tmp_path: Path, published: Published) -> None:
    installed = (await fetch([relays[0].url], tmp_path, published.release.id)).release
    stall(relays[1], "mute", STAGES["read-back"])
    async with asyncio.timeout(GIVE_UP_S), Pool([relay.url for relay in relays], timeouts=PATIENT) as pool:
        done = await Reseeder(pool, Store(tmp_path), installed, now=clock()).reseed()
    check_reports(done.relays, relays)


async def test_availability_leaves_out_slow_relay(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published
) -> None:
    installed = (await fetch([relays[0].url], tmp_path, published.release.id)).release
    stall(relays[1], "EVENT", STAGES["read-back"])
    urls = [relay.url for relay in relays]
    async with asyncio.timeout(GIVE_UP_S), Pool(urls, timeouts=PATIENT, wait_for_all=False) as pool:
        found = await Reseeder(pool, Store(tmp_path), installed, now=clock()).availability()
        assert pool.reports[urls[1]].reason == f"{urls[1]}: no complete answer yet"
    assert (found.held[urls[0]], found.nowhere) == (found.total, 0)


@pytest.mark.parametrize("stage", ["heads", "read-back"])
async def test_follower_does_not_wait_for_slow_relay(
    relays: list[ScriptedRelay], tmp_path: Path, published: Published, key: SecretKey, stage: str
) -> None:
    stall(relays[1], "AUTH", STAGES[stage])
    follow = Follow([relay.url for relay in relays], tmp_path, key.pubkey, timeouts=PATIENT)
    async with asyncio.timeout(GIVE_UP_S):
        update = await follow.follower.catch_up()
    assert isinstance(update, Installed)
    assert update.release.id == published.release.id


@pytest.mark.usefixtures("published")
async def test_slow_relay_that_delivers_is_waited_for(relays: list[ScriptedRelay]) -> None:
    async def linger(wanted: RawEvent) -> None:
        await asyncio.sleep(0.1 if "ids" in wanted else 0)

    relays[1].before_answer, relays[1].most = linger, 1
    ids = [bytes.fromhex(event_id) for event_id in relays[0].events]
    timeouts = Timeouts(straggler_s=0.3)
    async with asyncio.timeout(GIVE_UP_S), Pool([relay.url for relay in relays], timeouts=timeouts) as pool:
        pool._relays[relays[1].url].ids_per_request = 1
        held = await pool.stored_ids(ids)
    assert len(ids) * 0.1 > 0.3
    assert held[relays[1].url] == set(ids)
