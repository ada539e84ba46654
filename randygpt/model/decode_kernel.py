"""Decode steps by a compiled library, where it was built (`hatch_build.py`); `randygpt.model.decoder` works without it.

The library is loaded once, without I/O after that. It runs on several threads, without Python's lock.
"""

import ctypes
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from randygpt.model.config import ModelConfig

Array = npt.NDArray[np.float32]
Blocks = npt.NDArray[np.float32]  # weights of a linear layer: (blocks, in, width)

SOURCE = Path(__file__).with_name("decode_step.c")
LIBRARY = Path(__file__).with_name("decode_step.so")
SWITCH = "RANDYGPT_DECODE_KERNEL"  # environment variable: 0 turns the library off
_DEFAULT_THREADS = 4  # at most; more gain little, as memory bandwidth is the limit


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("dim", "heads", "layers", "context")),
        *((name, ctypes.c_void_p) for name in ("wte", "wpe", "weights", "blocks", "widths")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("tokens", "lengths", "keys", "values", "scratch", "logits")),
    )


class DecodeKernel:
    """Decode steps of one network.

    Args:
        library: The compiled library.
        config: Shape of the network.
        wte: Token embeddings (vocab_size, n_embd).
        wpe: Position embeddings (block_size, n_embd).
        linears: Weights of every linear layer: qkv, wo, fc1, fc2 of each layer, then the output layer. Not copied;
            blocks have 16, 32 or 64 columns.
    """

    def __init__(
        self, library: ctypes.CDLL, config: ModelConfig, wte: Array, wpe: Array, linears: Sequence[Blocks]
    ) -> None:
        self._library, self._config = library, config
        self._columns = linears[-1].shape[0] * linears[-1].shape[2]
        addresses, blocks, widths = (
            np.array(values, np.int64)
            for values in zip(*((each.ctypes.data, each.shape[0], each.shape[2]) for each in linears), strict=True)
        )
        self._kept = (wte, wpe, *linears, addresses, blocks, widths)  # the library reads them
        self._model = _Model(
            config.n_embd,
            config.n_head,
            config.n_layer,
            config.block_size,
            *(each.ctypes.data for each in (wte, wpe, addresses, blocks, widths)),
        )

    @classmethod
    def load(cls, config: ModelConfig, wte: Array, wpe: Array, linears: Sequence[Blocks]) -> Self | None:
        """Return the kernel of a network, or None where there is no library."""
        library = _load()
        return cls(library, config, wte, wpe, linears) if library else None

    def step(
        self, tokens: Sequence[int], lengths: npt.NDArray[np.intp], cache: tuple[Array, Array], threads: int
    ) -> Array:
        """Decode one token for each of the first rows of a cache.

        Args:
            tokens: The last token (B,) of each sequence.
            lengths: Cached tokens of each row, at least B.
            cache: Keys and values (S, L, H, T, D / H); they get an entry at `lengths` of each row.
            threads: Threads to use; 1 if others decode at the same time.

        Returns:
            Logits (B, V) after each token.

        Raises:
            IndexError: A token is not in the vocabulary, or a sequence is at the context length.
        """
        rows = len(tokens)
        ids, ends = np.array(tokens, np.int64), np.ascontiguousarray(lengths[:rows], np.int64)
        if ids.min() < 0 or ids.max() >= self._config.vocab_size or ends.max() >= self._config.block_size:
            raise IndexError("a token is not in the vocabulary, or the context is full")
        scratch = np.empty(self._library.randygpt_scratch_size(ctypes.byref(self._model), rows), np.float32)
        logits = np.empty((rows, self._columns), np.float32)
        arrays = (ids, ends, *cache, scratch, logits)
        step = _Step(rows, *(each.ctypes.data for each in arrays))
        self._library.randygpt_decode_step(ctypes.byref(self._model), ctypes.byref(step), threads)
        return logits[:, : self._config.vocab_size]


def default_threads() -> int:
    """Return the number of threads for a process that decodes nothing else at the same time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _DEFAULT_THREADS)


@functools.cache
def _load() -> ctypes.CDLL | None:
    """Return the library, or None if it is turned off, was not built, or was built from another source."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.randygpt_source.restype = ctypes.c_char_p
        same = library.randygpt_source() == hashlib.sha256(SOURCE.read_bytes()).hexdigest().encode()
    except (OSError, AttributeError):
        return None
    library.randygpt_scratch_size.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.randygpt_scratch_size.restype = ctypes.c_int64
    library.randygpt_decode_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    library.randygpt_decode_step.restype = None
    return library if same else None
