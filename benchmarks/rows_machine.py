"""Rows about the machine: what nothing that runs on it can exceed. They have no goal."""

import functools

from measure import Bench, Measured, Raw, Row


@functools.cache  # four rows share it
def ceiling(bench: Bench) -> Raw:
    """All four figures."""
    return bench.alone("ceiling.py")


def row(name: str, unit: str, figure: str, *, threads: int | None = None) -> Row:
    """One of the figures as a row; without `threads`, torch's number of them."""

    def measure(bench: Bench) -> Measured:
        raw = ceiling(bench)
        return Measured(value=raw[figure], raw={figure: raw[figure], "threads": threads or raw["threads"]})

    return Row(name=name, unit=unit, measure=measure)


ROWS = (
    row("machine: matrix product in bf16, 2048 x 2048", "GFLOP/s", "bf16_gflops"),
    row("machine: matrix product in float32, 2048 x 2048", "GFLOP/s", "float32_gflops"),
    row("machine: memory read by numpy, one thread", "GB/s", "numpy_gb_s", threads=1),
    row("machine: memory read by torch, all threads", "GB/s", "torch_gb_s"),
)
