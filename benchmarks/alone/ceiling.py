"""What this machine can do at best: matrix products and reads of memory. Prints one JSON line.

{"bf16_gflops", "float32_gflops"} of products of 2048 x 2048 matrices in torch; {"numpy_gb_s", "torch_gb_s"} of sums
over 512 MB, which numpy adds up on one thread and torch on all.
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
    """Measure, and print."""
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
    """The best of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
