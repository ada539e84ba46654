"""Versions that an author published, read from relays in pages."""

import itertools
from pathlib import Path

import pytest
from support.releases import clock, publish, tiny_sources
from support.scripted_relay import ScriptedRelay

from distribution import published
from distribution.errors import NotFound
from relay_client.keys import SecretKey
from relay_client.pool import Pool


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take two events for a page that the relay cut off."""
    monkeypatch.setattr(published, "_LEAST_CUT", 2)


async def test_old_version_is_found_on_a_later_page(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    dates = itertools.count(clock() - 100)  # every event a second later
    releases = [
        (await publish([scripted.url], tmp_path, key, tiny_sources(), new_version=True, now=dates.__next__)).release
        for _ in range(5)
    ]
    scripted.most = 2
    async with Pool([scripted.url]) as pool:
        found = await published.find_version(pool, key.pubkey, "demo", 1, now=clock())
        assert found == releases[0]
        everything = await published.query_published(pool, key.pubkey, now=clock())
        assert sorted(each.version for each in everything) == [1, 2, 3, 4, 5]
        assert [each.version for each in everything if each.latest] == [5]


async def test_events_of_one_second_end_the_pages(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    second = clock()
    for _ in range(3):
        await publish([scripted.url], tmp_path, key, tiny_sources(), new_version=True, now=lambda: second)
    scripted.most = 2
    async with Pool([scripted.url]) as pool:
        with pytest.raises(NotFound, match="no relay has version 9"):
            await published.find_version(pool, key.pubkey, "demo", 9, now=clock())
