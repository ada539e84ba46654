"""Rows about training next to a process that keeps one core busy. Starts processes.

GNU OpenMP reads from `GOMP_SPINCOUNT` how often a waiting thread checks before it sleeps. The command line sets it; the
reference is the library's own default.
"""

import contextlib
import functools
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from measure import Bench, Measured, Row, iteration_ms

LIBRARY_DEFAULT = "300000"  # libgomp env.c: three ms, where no variable is set
ITERATIONS = 52  # of which 41 are counted: no warm-up, no evaluation
BATCH_SIZES = {"xs": 4, "s": 8, "l": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Median ms of an iteration in two runs of each kind, with the library's default and with ours."""

    library_quiet: float
    ours_quiet: float
    library_busy: float
    ours_busy: float


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Run a process that keeps the last core busy, as far as the system lets it choose one; it ends with this one."""
    pin = f"os.sched_setaffinity(0, {{{max(os.sched_getaffinity(0))}}})" if sys.platform == "linux" else ""
    loop = f"import os\n{pin}\nwhile os.getppid() == {os.getpid()}: sum(range(100_000))"
    with subprocess.Popen([sys.executable, "-c", loop]) as process:
        try:
            yield
        finally:
            process.kill()


@functools.cache  # shared by two rows
def times(bench: Bench, preset: str) -> Times:
    """Measure a preset with a quiet machine and with a busy core, each in the order A B B A."""
    quiet = pair(bench, preset)
    with busy_core():
        busy = pair(bench, preset)
    return Times(library_quiet=quiet[0], ours_quiet=quiet[1], library_busy=busy[0], ours_busy=busy[1])


def pair(bench: Bench, preset: str) -> tuple[float, float]:
    """Return the ms of an iteration with the library's default and with ours."""
    flags = ("--preset", preset, "--batch", str(BATCH_SIZES[preset]), "--iters", str(ITERATIONS))

    def library() -> float:
        return iteration_ms(bench.train(*flags, GOMP_SPINCOUNT=LIBRARY_DEFAULT))

    def ours() -> float:
        return iteration_ms(bench.train(*flags))

    first, second, third, fourth = library(), ours(), ours(), library()
    return statistics.mean((first, fourth)), statistics.mean((second, third))


def slower_next_to_busy_core(bench: Bench, preset: str) -> Measured:
    """Compare an iteration next to a busy core with one on a quiet machine."""
    found = times(bench, preset)
    raw = {
        "quiet_ms": found.ours_quiet,
        "busy_ms": found.ours_busy,
        "library_quiet_ms": found.library_quiet,
        "library_busy_ms": found.library_busy,
        "library": found.library_busy / found.library_quiet,
    }
    return Measured(value=found.ours_busy / found.ours_quiet, raw=raw)


def speed_on_quiet_machine(bench: Bench, preset: str) -> Measured:
    """Compare an iteration on a quiet machine with one with the library's default."""
    found = times(bench, preset)
    raw = {"reference_ms": found.library_quiet, "ours_ms": found.ours_quiet}
    return Measured(value=found.library_quiet / found.ours_quiet, raw=raw)


def rows(preset: str) -> tuple[Row, Row]:
    """Return the two rows of a preset."""
    about = f"training next to a busy core, preset {preset}, batch {BATCH_SIZES[preset]}"
    return (
        Row(
            name=f"{about}: in times of a quiet machine",
            unit="times",
            goal=2.5,
            at_most=True,
            measure=functools.partial(slower_next_to_busy_core, preset=preset),
        ),
        Row(
            name=f"{about}: the quiet machine, against OpenMP's default",
            unit="x",
            goal=0.97,
            measure=functools.partial(speed_on_quiet_machine, preset=preset),
        ),
    )


ROWS = tuple(row for preset in BATCH_SIZES for row in rows(preset))
