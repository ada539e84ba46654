"""Rows about the machine: peak arithmetic and memory bandwidth, the limits of every other row. They have no goal."""

import functools

from measure import Bench, Measured, Raw, Row


@functools.cache  # shared by four rows
def peak(bench: Bench) -> Raw:
    """Measure all four figures."""
    return bench.run_script("peak.py")


def row(name: str, unit: str, figure: str, *, threads: int | None = None) -> Row:
    """Return a row for one of the figures; `threads` defaults to torch's number of threads."""

    def measure(bench: Bench) -> Measured:
        raw = peak(bench)
        return Measured(value=raw[figure], raw={figure: raw[figure], "threads": threads or raw["threads"]})

    return Row(name=name, unit=unit, measure=measure)


ROWS = (
    row("machine: matrix product in bf16, 2048 x 2048", "GFLOP/s", "bf16_gflops"),
    row("machine: matrix product in float32, 2048 x 2048", "GFLOP/s", "float32_gflops"),
    row("machine: memory read by numpy, one thread", "GB/s", "numpy_gb_s", threads=1),
    row("machine: memory read by torch, all threads", "GB/s", "torch_gb_s"),
)
