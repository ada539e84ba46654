"""SIGTERM and Ctrl-C: they end a command at once or, where it says so, when what is under way has been saved."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from randygpt.cli.output import print_stderr

_terminations: list[int] = []  # every SIGTERM so far that was to end the command at once


def handle_termination() -> list[int]:
    """Have SIGTERM end everything as Ctrl-C does, asyncio's main task included; gives where each is noted."""
    _terminations.clear()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's `&`: neither signal would end anything
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return _terminations


def _terminate(number: int, _frame: FrameType | None) -> None:
    _terminations.append(number)
    signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collects both, so that the step under way ends and is saved; a second one ends everything.

    A SIGTERM from before is there already: Python drops an exception that comes in some places, such as the callback of
    a weak reference, and imports are full of them.
    """
    received = [*_terminations]

    def note(number: int, _frame: FrameType | None) -> None:
        if received:  # as it would have done without us
            signal.signal(number, before[number])
            signal.raise_signal(number)
        received.append(number)
        print_stderr("saving; once more to stop at once")

    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
