"""SIGTERM and Ctrl-C: end a command at once or, in `deferred_signals`, after its current step is saved."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from randygpt.cli.output import print_stderr

SAME_WISH_S = 1.0  # torchrun passes Ctrl-C on as SIGTERM within milliseconds
_terminations: list[int] = []  # every SIGTERM received so far


def handle_termination() -> list[int]:
    """Make SIGTERM act like Ctrl-C, in asyncio too; return the list that records every SIGTERM."""
    _terminations.clear()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell sets this for `command &`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return _terminations


def was_terminated() -> bool:
    """Return True if SIGTERM was received, which acts like Ctrl-C."""
    return bool(_terminations)


def _terminate(number: int, _frame: FrameType | None) -> None:
    _terminations.append(number)
    signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collect both signals, so that the caller can finish and save its current step; a later one ends the process.

    Signals within a second of the first do not count.

    Yields the signals received. An earlier SIGTERM is included: Python drops an exception raised in some places, such
    as the callback of a weak reference, and imports run many of them.
    """
    received = [*_terminations]
    first_at = time.monotonic()

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal first_at
        if received:
            if time.monotonic() - first_at >= SAME_WISH_S:  # restore and raise again
                signal.signal(number, before[number])
                signal.raise_signal(number)
            return
        received.append(number)
        first_at = time.monotonic()
        print_stderr("finishing this step, then saving; press Ctrl-C again to quit now")

    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
