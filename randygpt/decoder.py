"""A trained network as generation and serving run it: in numpy, on the CPU, without torch. No I/O.

One sequence at a time, with its keys and values kept, so that a token costs one pass over the weights. For models of
this size that is limited by memory: matrices lie so that a product reads them from first to last.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from randygpt.config import NORM_EPS, ModelConfig
from randygpt.header import tensor_shapes

Array = npt.NDArray[np.float32]
_EPS = np.float32(NORM_EPS)


class KVCache:
    """Keys and values of the positions a sequence has been through."""

    def __init__(self, config: ModelConfig) -> None:
        heads, size = config.n_head, config.n_embd // config.n_head
        self.keys = np.empty((config.n_layer, heads, size, config.block_size), np.float32)  # (L, H, D / H, T)
        self.values = np.empty((config.n_layer, heads, config.block_size, size), np.float32)  # (L, H, T, D / H)
        self.length = 0  # positions filled


class Decoder:
    """The network of some weights (P,) in file order, which are copied. Safe to use from several threads."""

    def __init__(self, config: ModelConfig, weights: Array) -> None:
        self.config = config
        matrices, start = {}, 0
        for name, (rows, columns) in tensor_shapes(config).items():
            matrices[name] = weights[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns
        self._token, self._position = matrices["wte"].copy(), matrices["wpe"].copy()
        self._head = _columns(matrices["lm_head"])  # (D, V)
        self._layers = [
            (
                _columns(*(matrices[f"layer{index}.{name}"] for name in ("wq", "wk", "wv"))),  # (D, 3D)
                _columns(matrices[f"layer{index}.wo"]),  # (D, D)
                _columns(matrices[f"layer{index}.fc1"]),  # (D, 4D)
                matrices[f"layer{index}.fc2"].copy().T,  # (4D, D); so narrow that the file's order is the faster
            )
            for index in range(config.n_layer)
        ]

    def logits(self, ids: Sequence[int]) -> Array:
        """Logits (T, V) of a sequence (T,); raises ValueError for one longer than the block."""
        result: Array = self._run(ids, KVCache(self.config)) @ self._head
        return result

    def next_logits(self, ids: Sequence[int], cache: KVCache) -> Array:
        """Logits (V,) behind the last of ids (t,), which follow those that the cache has seen; it grows by them.

        Raises ValueError beyond the block.
        """
        result: Array = self._run(ids, cache)[-1] @ self._head
        return result

    def _run(self, ids: Sequence[int], cache: KVCache) -> Array:
        """What the last layer says of each of the ids, (t, D)."""
        start, end = cache.length, cache.length + len(ids)
        if not start < end <= self.config.block_size:
            raise ValueError(f"{len(ids)} tokens behind {start} do not fit a block of {self.config.block_size}")
        x = self._token[ids] + self._position[start:end]  # (t, D)
        for index, (qkv, wo, fc1, fc2) in enumerate(self._layers):
            x += self._attend(_norm(x) @ qkv, cache.keys[index], cache.values[index], start) @ wo
            hidden = _norm(x) @ fc1
            np.maximum(hidden, 0, out=hidden)
            hidden *= hidden
            x += hidden @ fc2
        cache.length = end
        return x

    def _attend(self, qkv: Array, keys: Array, values: Array, start: int) -> Array:
        """Mixed values (t, D) of t new positions, whose keys and values go behind the `start` that are there."""
        length = len(qkv)
        end = start + length
        query, key, value = qkv.reshape(length, 3, self.config.n_head, -1).transpose(1, 2, 0, 3)  # (H, t, D / H) each
        keys[:, :, start:end] = key.transpose(0, 2, 1)
        values[:, start:end] = value
        scores: Array = query @ keys[:, :, :end]  # (H, t, end)
        scores /= np.sqrt(np.float32(query.shape[-1]))
        if length > 1:
            scores[:, ~np.tri(length, end, start, dtype=bool)] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed: Array = scores @ values[:, :end]  # (H, t, D / H)
        return mixed.transpose(1, 0, 2).reshape(length, -1)


def _columns(*matrices: Array) -> Array:
    """(out, in) matrices, one above the other, as (in, out) in that order in memory."""
    return np.ascontiguousarray(np.concatenate(matrices).T)


def _norm(x: Array) -> Array:
    scale: Array = x / np.sqrt((x * x).sum(axis=-1, keepdims=True, dtype=np.float32) / np.float32(x.shape[-1]) + _EPS)
    return scale
