"""Compute devices, precisions, and the memory allocator of this machine."""

import ctypes
import os
import sys

import torch
from torch import Tensor

from randygpt.errors import CallerError

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


def find_device(requested: str | None) -> str:
    """Return the requested device, else the fastest available one; raise CallerError if it is not available."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = requested or next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available.get(found.split(":")[0]):
        names = ", ".join(name for name in available if available[name])
        raise CallerError(f"--device {requested} is not available here: choose from {names}")
    if found == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return found


def fastest_precision(device: str) -> str:
    """Return bf16 where the device supports it natively, else float32; both reach the same loss (decision 0013)."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # Older releases of torch cannot tell; they train in float32.
    known = device == "cpu" and hasattr(torch.cpu, "get_capabilities")
    capabilities = torch.cpu.get_capabilities() if known else {}
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"


def copy_to(device: str, tensor: Tensor) -> Tensor:
    """Return a tensor of the CPU on a device; an accelerator copies it while the CPU works on.

    CUDA does so only from pinned memory. On Apple's GPUs the call waits: torch does not say when the tensor may change.
    """
    if device == "cpu":
        return tensor
    if device.startswith("cuda"):
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device != "mps")


def tune_malloc() -> None:
    """Make glibc's malloc keep freed memory for the next step, as new pages are slow; no effect elsewhere."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, value)
