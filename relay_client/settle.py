"""Waiting for several relays, but not for the slowest once the others have answered. No I/O of its own."""

import asyncio
import math
from collections.abc import Callable, Collection

TOO_SLOW = "not waited for, since it was much slower to answer than others"


def never() -> float:
    """Return a time before all others: nothing has arrived yet."""
    return -math.inf


async def settle(
    tasks: Collection[asyncio.Task[None]],
    *,
    enough: Callable[[], bool],
    settle_s: float,
    moved_at: Callable[[], float] = never,
    event_s: float = math.inf,
) -> None:
    """Wait until all tasks are done, or for `settle_s` seconds more once `enough` is true.

    Tasks that are not done then keep running.

    Args:
        tasks: Tasks to wait for; cancelled ones count as done.
        enough: Called when a task is done; returns whether the caller could do without the others.
        settle_s: How long to wait for the others then, and after each time that `moved_at` returns.
        moved_at: Returns the loop time at which the others last delivered something wanted.
        event_s: How long such deliveries may put off the end in all.

    Raises:
        Exception: Whatever a task raised.
    """
    clock = asyncio.get_running_loop().time
    pending, enough_at = set(tasks), math.inf
    while pending:
        end = min(max(enough_at, moved_at()), enough_at + event_s) + settle_s
        if (left := end - clock()) <= 0:
            return
        done, pending = await asyncio.wait(
            pending, timeout=None if math.isinf(left) else left, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            if not task.cancelled():
                task.result()
        if enough_at == math.inf and enough():
            enough_at = clock()
