"""Data-parallel training under `torchrun`: the processes of a run and the collectives they need."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from randygpt.errors import CallerError
from relay_client.errors import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes of a run: they hold the same weights, and each computes a shard of every batch."""

    rank: int = 0  # this process; rank 0 writes the files
    size: int = 1  # processes
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise CallerError(f"rank {self.rank} is not below the number of processes, {self.size}")

    def shard(self, count: int) -> range:
        """Return the indices, out of `count` items, that this process works on."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:  # noqa: FBT001 (mirrors the builtin)
        """Return whether the flag is set in at least one process."""
        if self.size == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        self.all_reduce(votes)
        return bool(votes)


@contextlib.contextmanager
def process_group(device: str) -> Iterator[World]:
    """Join the process group that `torchrun` announces in the environment; without one, yield a world of one process.

    Raises:
        CallerError: `WORLD_SIZE` is not a number.
    """
    raw_size = os.environ.get("WORLD_SIZE", "1")
    if not (raw_size.isascii() and raw_size.isdecimal()):
        raise CallerError(f"WORLD_SIZE in the environment is not a number of processes: {quote(raw_size)}")
    size = int(raw_size)
    if size == 1 or "MASTER_ADDR" not in os.environ:
        yield World(device=device)
        return
    # The functions of this module keep the current group as a default argument. An optimizer imports it lazily; then
    # they would hold the group's threads until exit, which can abort the interpreter.
    importlib.import_module("torch.distributed.nn")
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, device=device)
    finally:
        dist.destroy_process_group()
