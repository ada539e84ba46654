"""What must hold for every input: a value or an error of ours, within bounds of time and memory.

Also the helpers that the families of targets share.
"""

import resource
import sys
import time
from collections.abc import Callable

from relay_client.errors import RandyGPTError

Target = Callable[[bytes], object]

MAX_CPU_S = 1.0  # of this thread for one input; instrumented code is some times slower
MAX_GROWTH = 64 << 20  # bytes that one input may add to the peak of the process
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


class BrokenPromise(AssertionError):
    """The input took too long or too much memory, or a round trip changed a value."""


def check(target: Target, data: bytes, *, bounded: bool = True) -> None:
    """Give an input to a target.

    Args:
        target: Function that reads the bytes.
        data: The input.
        bounded: Measure time and memory; not for the first inputs, which import modules and fill caches.

    Raises:
        Exception: Anything but an error of ours, from the code that is tested.
        BrokenPromise: A bound or a round trip does not hold.
    """
    peak, start = _peak(), time.thread_time()
    try:
        target(data)
    except RandyGPTError as error:
        str(error)
    taken, growth = time.thread_time() - start, _peak() - peak
    if bounded and taken > MAX_CPU_S:
        raise BrokenPromise(f"{taken:.2f} s of CPU time, at most {MAX_CPU_S} are allowed")
    if bounded and growth > MAX_GROWTH:
        raise BrokenPromise(f"{growth:,} bytes of memory, at most {MAX_GROWTH:,} are allowed")


def same(left: object, right: object) -> None:
    """Raise BrokenPromise unless two values are equal: the second is the first, encoded and decoded."""
    if left != right:
        raise BrokenPromise(f"a round trip changed {left!r:.300} to {right!r:.300}")


def text_of(data: bytes) -> str:
    """Return an input as text; any bytes are some text, lone surrogates among them."""
    return data.decode("utf-8", "surrogateescape" if data[:1] == b"\xff" else "replace")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
