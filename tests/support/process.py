"""State of the test's process that a command changes."""

import contextlib
import logging
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def restored_handlers() -> Iterator[None]:
    """Put back the handlers of signals and of the log at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    log_handlers, level = logging.root.handlers[:], logging.root.level
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        logging.root.handlers[:] = log_handlers  # `serve` adds one that writes to the stderr of its test
        logging.root.setLevel(level)
