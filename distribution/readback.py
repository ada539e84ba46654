"""Reading back what relays said OK to: some do so before an event can be read, and some forget it. Does network I/O."""

import asyncio
from collections.abc import Awaitable, Callable

from relay_client.pool import Pool

WAITS = 6
FIRST_WAIT_S = 0.1  # doubles with each


async def unreadable(pool: Pool, read: Callable[[], Awaitable[set[str]]]) -> set[str]:
    """The working relays that do not give something out, after some patience; `read` asks which do."""
    for number in range(WAITS):
        shown = await read()
        if shown.issuperset(pool.urls):
            return set()
        await asyncio.sleep(FIRST_WAIT_S * 2**number)
    shown = await read()
    return set(pool.urls) - shown
