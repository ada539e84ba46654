"""Process of a group: prints its thread names during and after the group as JSON."""

import json
import sys
from pathlib import Path

import torch

from randygpt.training.distributed import process_group


def threads() -> list[str]:
    return [path.read_text(encoding="utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")]


def main() -> None:
    with process_group("cpu") as world:
        weight = torch.nn.Parameter(torch.ones(3))
        weight.sum().backward()
        torch.optim.AdamW([weight]).step()  # imports more of torch
        world.any(True)
        before = threads()
    sys.stdout.write(json.dumps([before, threads()]) + "\n")


if __name__ == "__main__":
    main()
