"""A server's metrics, as Prometheus reads them."""

import asyncio

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

WAIT_S = 60


async def scrape(address: str) -> dict[str, float]:
    """Return values by name and labels."""
    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = text_string_to_metric_families(await response.text())
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


async def sequence_count(address: str) -> int:
    """Return the number of sequences running or waiting."""
    found = await scrape(address)
    return int(found["randygpt_sequences_running"] + found["randygpt_sequences_waiting"])


async def until_sequences(address: str, count: int) -> None:
    """Wait until so many sequences run or wait."""
    async with asyncio.timeout(WAIT_S):
        while await sequence_count(address) != count:
            pass
