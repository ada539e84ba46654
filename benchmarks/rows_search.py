"""Rows about search: the command with 5,000 hostile events among 20 models, on relays of this machine.

Relay and command run in separate processes. Times include the start of our program.
"""

import asyncio
import functools
import os
import statistics
import subprocess
import sys
import time

import orjson
from measure import ROUNDS, Bench, Measured, Row
from rows_network import PROGRAMS, running
from support.announcements import flood, real_models

from relay_client.event import Event
from relay_client.pool import Pool

HOSTILE = 5_000


def searching(name: str, bench: Bench) -> Measured:
    """Measure `randygpt search`, in seconds; the median of some runs."""
    now = int(time.time())
    models = real_models(now)
    events = [*(event for each in models for event in each.events), *flood(HOSTILE, now)]
    with running(name, bench.folder / f"search-{name}") as url:
        asyncio.run(publish(url, events))
        runs = [search(bench, url) for _ in range(ROUNDS)]
    expected = {each.release.id.hex() for each in models}
    fault = "" if all(found == expected for _, found in runs) else "not all models were found"
    seconds = [taken for taken, _ in runs]
    raw = {"fastest_s": min(seconds), "slowest_s": max(seconds), "events": len(events)}
    return Measured(value=statistics.median(seconds), raw=raw, fault=fault)


async def publish(url: str, events: list[Event]) -> None:
    """Publish events to a relay."""
    async with Pool([url]) as pool:
        await pool.publish((event, [url]) for event in events)


def search(bench: Bench, url: str) -> tuple[float, set[str]]:
    """Run the command; return its time in seconds and the ids of the releases it printed."""
    command = [sys.executable, "-m", "randygpt", "search", "--json", "--limit", "20", "--relay", url]
    environment = os.environ | {"RANDYGPT_HOME": str(bench.folder / "search-home")}
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return time.perf_counter() - start, {model["release"] for model in orjson.loads(done.stdout)}


ROWS = tuple(
    Row(
        name=f"search 5,000 hostile events and 20 models on {name}",
        unit="s",
        measure=functools.partial(searching, name),
        goal=3,
        at_most=True,
        program=PROGRAMS.get(name),
    )
    for name in ("LocalRelay", "nostr-relay, sqlite", "npm")
)
