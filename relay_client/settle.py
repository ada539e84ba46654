"""Waiting for several relays, but not for the slowest once the others have answered. No I/O of its own."""

import asyncio
import math
from collections.abc import Callable, Collection


async def settle(tasks: Collection[asyncio.Task[None]], *, enough: Callable[[], bool], settle_s: float) -> None:
    """Wait until all tasks are done, or for `settle_s` seconds more once `enough` is true.

    Tasks that are not done then keep running.

    Args:
        tasks: Tasks to wait for.
        enough: Called when a task is done; returns whether the caller could do without the others.
        settle_s: How long to wait for the others then.

    Raises:
        Exception: Whatever a task raised.
    """
    clock = asyncio.get_running_loop().time
    pending, deadline = set(tasks), math.inf
    while pending and (left := deadline - clock()) > 0:
        done, pending = await asyncio.wait(
            pending, timeout=None if left == math.inf else left, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
        if deadline == math.inf and enough():
            deadline = clock() + settle_s
