"""A gate that threads wait for."""

import contextlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def gate(wait_s: float) -> Iterator[threading.Event]:
    """Yield a closed gate; it opens at the end, or after `wait_s`, so that a wrong wait fails instead of hanging."""
    opened = threading.Event()
    rescue = threading.Timer(wait_s, opened.set)
    rescue.start()
    try:
        yield opened
    finally:
        rescue.cancel()
        opened.set()
