"""Peak arithmetic and memory bandwidth of this machine. Prints one JSON line.

{"bf16_gflops", "float32_gflops"}: products of 2048 x 2048 matrices in torch. {"numpy_gb_s", "torch_gb_s"}: sums over
512 MB, by numpy on one thread and by torch on all.
"""

import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

SIDE = 2048
BYTES = 512 << 20
ROUNDS = 15


def main() -> None:
    """Measure and print the figures."""
    result = {}
    for name, dtype in (("bf16_gflops", torch.bfloat16), ("float32_gflops", torch.float32)):
        left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
        result[name] = 2 * SIDE**3 / seconds(partial(torch.matmul, left, right)) / 1e9
    numbers = np.ones(BYTES // 4, np.float32)
    tensor = torch.from_numpy(numbers)
    result["numpy_gb_s"] = BYTES / seconds(numbers.sum) / 1e9
    result["torch_gb_s"] = BYTES / seconds(tensor.sum) / 1e9
    print(json.dumps(result | {"threads": torch.get_num_threads()}))


def seconds(work: Callable[[], object]) -> float:
    """Return the shortest time of all rounds, in seconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
