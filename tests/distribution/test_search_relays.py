"""Search on real relays with 5,000 hostile events among 20 models."""

import asyncio
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.announcements import flood, real_models
from support.relays import running_relay

from distribution.paged_reader import ReadLimits
from distribution.search import Searcher
from distribution.search_results import Claims, KnownAuthors, SearchQuery
from relay_client.pool import Pool

pytestmark = pytest.mark.full
HOSTILE = 5_000
MAX_MEMORY = 64 << 20  # bytes
TIMEOUT_S = 300


def read_card(_card: Mapping[str, object]) -> Claims:
    return Claims()


@pytest.mark.parametrize("name", ["embedded, memory", "nostr-relay, sqlite", "npm, sqlite"])
async def test_flood_hides_no_model(name: str, tmp_path: Path, free_port: int) -> None:
    now = int(time.time())
    models, hostile = real_models(now), flood(HOSTILE, now)
    events = [*(event for each in models for event in each.events), *hostile]
    async with asyncio.timeout(TIMEOUT_S), running_relay(name, tmp_path, free_port) as url:
        async with Pool([url]) as pool:
            await pool.publish((event, [url]) for event in events)
            assert pool.failure_summary() == ""
        async with Pool([url], wait_for_all=False) as pool:
            tracemalloc.start()
            try:
                searcher = Searcher(
                    pool=pool,
                    query=SearchQuery(limit=20),
                    known=KnownAuthors(),
                    read_card=read_card,
                    now=now,
                    limits=ReadLimits(seconds=TIMEOUT_S),
                )
                result = await searcher.search()
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    assert {model.release_id for model in result.models} == {each.release.id for each in models}
    assert result.incomplete == []
    assert peak < MAX_MEMORY
