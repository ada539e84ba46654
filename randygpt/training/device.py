"""Compute devices, precisions, and the memory allocator of this machine."""

import ctypes
import os
import sys

import torch

from randygpt.errors import CallerError

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


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


def tune_malloc() -> None:
    """Keep what is freed, for the next step to use: the kernel's pages are slow to come by. On glibc, else nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, value)
