"""Turns on the event loop for work that grows with a client's request. No I/O."""

import asyncio


class LoopTurns:
    """Turns for long work that is done slice by slice: one slice per iteration of the event loop, in order of asking.

    Whatever clients request, other connections are served between two slices.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def next(self) -> None:
        """Wait until one more slice may run."""
        async with self._lock:
            await asyncio.sleep(0)
