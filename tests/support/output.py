"""Output of other processes, read with a deadline, so that a test fails with what was read instead of hanging."""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator

GIVE_UP_S = 180  # the machine may be slow and busy


def read_until(
    descriptor: int, expected: bytes | None, *, timeout_s: float = GIVE_UP_S, block_size: int = 1 << 16
) -> bytes:
    """Read a pipe or terminal until `expected` has come; for None, until its other end is closed."""
    deadline, read = time.monotonic() + timeout_s, b""
    while expected is None or expected not in read:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {expected or 'end'!r} within {timeout_s:g} s: {read!r}"
        block = _read(descriptor, block_size)
        read += block
        if not block:
            assert expected is None, f"ended before {expected!r}: {read!r}"
            break
    return read


def read_line(descriptor: int, *, timeout_s: float = GIVE_UP_S) -> str:
    """Read one line and nothing after it; return it without its end."""
    return read_until(descriptor, b"\n", timeout_s=timeout_s, block_size=1).decode().rstrip()


@contextlib.contextmanager
def killed_on_error(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> Iterator[None]:
    """Wait for the process at the end; kill it first if the test has failed."""
    with process:
        try:
            yield
        except BaseException:
            process.kill()
            raise


def _read(descriptor: int, size: int) -> bytes:
    try:
        return os.read(descriptor, size)
    except OSError:  # of a terminal whose other end is closed, on Linux
        return b""
