"""What the machine offers training: devices, precisions, memory, and other processes that share the work."""

import contextlib
import ctypes
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from randygpt.errors import CallerError

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, which hold the same weights and share each batch."""

    rank: int = 0  # ours; the first writes the files
    size: int = 1
    device: str = "cpu"

    def share(self, count: int) -> range:
        """Which of `count` pieces of work are ours."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensor: Tensor) -> None:
        """Add up the tensors of all processes, in place: the same numbers everywhere."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def any(self, ours: bool) -> bool:  # noqa: FBT001 (a vote)
        """Whether one of the processes says yes."""
        if self.size == 1:
            return ours
        votes = torch.tensor(float(ours), device=self.device)
        self.sum(votes)
        return bool(votes)


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """The world that `torchrun` started us in (it says so in the environment), else one of our own.

    Raises CallerError.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    if not (said.isascii() and said.isdecimal()):
        raise CallerError(f"WORLD_SIZE in the environment is not a number of processes: {said!r}")
    size = int(said)
    if size == 1 or "MASTER_ADDR" not in os.environ:
        yield World(device=device)
        return
    # Its functions have the group there is as a default argument: loaded later, as an optimiser does, it would keep the
    # group and its threads for ever, and a thread that is there while Python ends can abort the process.
    importlib.import_module("torch.distributed.nn")
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


def find_device(asked: str | None) -> str:
    """The device asked for, else the fastest there is; raises CallerError, naming those that are here."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = asked or next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(found.split(":")[0]):
        raise CallerError(f"no device {asked} here; there are {', '.join(name for name in there if there[name])}")
    if found == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return found


def fastest_precision(device: str) -> str:
    """The precision that is faster here and follows the loss of float32: bf16 where the processor multiplies it."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # Says nothing in older releases of torch, which then train in float32.
    there = torch.cpu.get_capabilities() if device == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if there.get("avx512_bf16") or there.get("amx_bf16") else "float32"


def keep_memory() -> None:
    """Keep what is freed, for the next step to use: the kernel's pages are slow to come by. On glibc, else nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, value)
