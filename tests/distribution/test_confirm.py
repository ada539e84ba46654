"""Reading back what relays accepted, with and without their own counts (NIP-45)."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from support.releases import many_sources, publish
from support.scripted_relay import ScriptedRelay

from distribution.confirm import ChunkCheck, sample_size
from relay_client.allocation import Allocation
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip11 import fetch_relay_infos
from relay_client.pool import Pool
from relay_client.timeouts import Timeouts

TOTAL = 60
COUNTED_SAMPLE = 32


async def check(scripted: ScriptedRelay, key: SecretKey, *, withheld: int = 0) -> bool:
    """Return whether the check finds that the relay has all of some events; it withholds the first few."""
    events = [EventDraft(kind=1064, created_at=number, content="").sign(key) for number in range(TOTAL)]
    scripted.events = {event.id.hex(): orjson.loads(event.to_json()) for event in events}
    scripted.deliver = lambda event: event if event["created_at"] >= withheld else None
    scripted.description = {"supported_nips": [1, 11, 45]}
    async with Pool([scripted.url], timeouts=Timeouts(readable_first_s=0, count_s=0.2)) as pool:
        pool.apply_limits(await fetch_relay_infos(pool.urls), frame_size=0)
        allocation = Allocation(pool.urls, [1] * TOTAL, stored={scripted.url: set(range(TOTAL))})
        return await ChunkCheck([event.id for event in events], confirmed={}).run(pool, allocation)


def read(scripted: ScriptedRelay) -> int:
    """Return the number of events that were asked for."""
    return len({event_id for wanted in scripted.requests for event_id in wanted["ids"]})


async def test_right_count_makes_the_sample_smaller(scripted: ScriptedRelay, key: SecretKey) -> None:
    scripted.count = lambda number: {"count": number}
    assert await check(scripted, key)
    assert sum(len(wanted["ids"]) for wanted in scripted.counted) == TOTAL
    assert read(scripted) == COUNTED_SAMPLE < sample_size(TOTAL)


@pytest.mark.parametrize(
    "count",
    [
        None,
        lambda number: {"count": number, "approximate": True},
        lambda number: {"count": number + 1},
        lambda _number: {"count": "all"},
        lambda _number: {"count": True},
        lambda _number: [5],
        lambda _number: None,
    ],
    ids=["refused", "estimate", "too high", "text", "boolean", "list", "silence"],
)
async def test_useless_count_changes_nothing(
    scripted: ScriptedRelay, key: SecretKey, count: Callable[[int], object] | None
) -> None:
    scripted.count = count
    assert await check(scripted, key)
    assert scripted.counted
    assert read(scripted) == sample_size(TOTAL)


async def test_false_count_does_not_hide_a_loss(scripted: ScriptedRelay, key: SecretKey) -> None:
    scripted.count = lambda number: {"count": number}
    assert not await check(scripted, key, withheld=TOTAL // 2)


async def test_false_count_is_no_loss(scripted: ScriptedRelay, key: SecretKey) -> None:
    scripted.count = lambda _number: {"count": 0}
    assert await check(scripted, key)
    assert read(scripted) == TOTAL


async def test_low_count_finds_a_single_loss(scripted: ScriptedRelay, key: SecretKey) -> None:
    scripted.count = lambda number: {"count": number - 1}
    assert not await check(scripted, key, withheld=1)


async def test_publish_asks_for_counts_where_they_are_offered(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    scripted.count = lambda number: {"count": number}
    published = await publish([scripted.url], tmp_path / "a", key, many_sources(1))
    assert published.relays[scripted.url].in_use
    assert not scripted.counted
    scripted.description = {"supported_nips": [45]}
    await publish([scripted.url], tmp_path / "a", key, many_sources(2))
    chunks = 2 + 2  # of the checkpoint and the other files
    assert [len(wanted["ids"]) for wanted in scripted.counted] == [chunks]
