"""Something a thread may be made to wait for."""

import contextlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def gate(wait_s: float) -> Iterator[threading.Event]:
    """A closed gate; opened at the end, or after `wait_s`: a wait at the wrong time fails then, and does not hang."""
    opened = threading.Event()
    rescue = threading.Timer(wait_s, opened.set)
    rescue.start()
    try:
        yield opened
    finally:
        rescue.cancel()
        opened.set()
