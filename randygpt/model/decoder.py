"""A trained network as generation and serving run it: in numpy, on the CPU, without torch. No I/O.

Several sequences at a time, each with its keys and values kept, so that a token costs a sequence one row of every
product. For models of this size that is limited by memory: matrices are cut into blocks of columns that a product
reads from first to last.
"""

from collections.abc import Iterable, Sequence
from copy import copy
from itertools import islice
from typing import Self

import numpy as np
import numpy.typing as npt

from randygpt.model.config import NORM_EPS, ModelConfig
from randygpt.model.layout import tensor_shapes

Array = npt.NDArray[np.float32]
PREFILL_CHUNK = 64  # tokens of a prompt in one pass: more would make others wait longer, and none sooner done
_EPS = np.float32(NORM_EPS)
_WIDTH, _BLOCK = 64, 1 << 15  # columns and entries of a block of columns at most
_PRODUCT = 10**6  # multiplications up to which OpenBLAS does not copy the matrix first


class KVCache:
    """Keys and values of what some sequences have been through, each in a slot of its own."""

    def __init__(self, config: ModelConfig, slots: int = 1) -> None:
        shape = (slots, config.n_layer, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.keys = np.zeros(shape, np.float32)  # (S, L, H, T, D / H); beyond a sequence's end numbers must be finite
        self.values = np.zeros(shape, np.float32)
        self.lengths = np.zeros(slots, np.intp)  # positions filled, (S,)

    @staticmethod
    def slot_bytes(config: ModelConfig) -> int:
        """Bytes of a slot."""
        return 8 * config.n_layer * config.block_size * config.n_embd

    def partition(self, number: int, count: int) -> "KVCache":
        """The slots of one of `count` threads, numbered from 0: the same memory, about as many for each."""
        total = len(self.lengths)
        part, slots = copy(self), slice(total * number // count, total * (number + 1) // count)
        part.keys, part.values, part.lengths = self.keys[slots], self.values[slots], self.lengths[slots]
        return part

    def get(self, slot: int) -> tuple[Array, Array]:
        """Copies of a slot's keys and values, (L, H, t, D / H) each."""
        end = self.lengths[slot]
        return self.keys[slot, :, :, :end].copy(), self.values[slot, :, :, :end].copy()

    def put(self, slot: int, keys: Array, values: Array) -> None:
        """Put the keys and values of a sequence in a slot, (L, H, t, D / H) each."""
        end = self.lengths[slot] = keys.shape[2]
        self.keys[slot, :, :, :end] = keys
        self.values[slot, :, :, :end] = values

    def move(self, source: int, target: int) -> None:
        """Put a slot's sequence in another slot."""
        end = self.lengths[source]
        self.put(target, self.keys[source, :, :, :end], self.values[source, :, :, :end])


class Decoder:
    """The network of some matrices, which come in file order and are copied. Safe to use from several threads."""

    def __init__(self, config: ModelConfig, matrices: Iterable[Array]) -> None:
        self.config = config
        dim, coming = config.n_embd, iter(matrices)
        layer = ((3, (3 * dim, dim)), (1, (dim, dim)), (1, (4 * dim, dim)), (1, (dim, 4 * dim)))  # q, k and v are one
        products = [(1, (config.vocab_size, dim)), *(layer * config.n_layer)]
        sizes = [_Columns.size(shape) for _, shape in products]
        memory = np.empty(sum(sizes), np.float32)  # in one piece: the system gives that larger pages
        rooms = np.split(memory, np.cumsum(sizes)[:-1])
        self._token, self._position = next(coming).copy(), next(coming).copy()
        self._head, *rest = (
            _Columns(list(islice(coming, count)), room) for (count, _), room in zip(products, rooms, strict=True)
        )
        self._layers = [rest[start : start + 4] for start in range(0, len(rest), 4)]

    @classmethod
    def from_flat(cls, config: ModelConfig, weights: Array) -> Self:
        """The network of weights (P,) in file order."""
        shapes = tensor_shapes(config).values()
        parts = np.split(weights, np.cumsum([rows * columns for rows, columns in shapes])[:-1])
        return cls(config, (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

    def logits(self, ids: Sequence[int]) -> Array:
        """Logits (T, V) of a sequence (T,); raises ValueError for one longer than the block."""
        cache = KVCache(self.config)
        self._check(ids, cache, 0)
        chunks = (ids[start : start + PREFILL_CHUNK] for start in range(0, len(ids), PREFILL_CHUNK))
        return np.concatenate([self._head(self._run(cache, (), [(0, chunk)])) for chunk in chunks])

    def next_logits(self, ids: Sequence[int], cache: KVCache, slot: int = 0) -> Array:
        """Logits (V,) behind the last of ids (t,), which follow those that the slot has seen; it grows by them.

        Raises ValueError beyond the block.
        """
        self._check(ids, cache, slot)
        for start in range(0, len(ids) - PREFILL_CHUNK, PREFILL_CHUNK):
            self._run(cache, (), [(slot, ids[start : start + PREFILL_CHUNK])])
        rest = ids[(len(ids) - 1) // PREFILL_CHUNK * PREFILL_CHUNK :]
        logits: Array = self.forward(cache, (), [(slot, rest)])[0]
        return logits

    def forward(self, cache: KVCache, tokens: Sequence[int], chunks: Sequence[tuple[int, Sequence[int]]]) -> Array:
        """Logits (B + C, V) behind a token (B,) for each of the first slots, and behind C chunks.

        A chunk is (slot, ids). Every slot grows by what it was given, and must have room for it.
        """
        x = self._run(cache, tokens, chunks)
        ends = np.cumsum([1] * len(tokens) + [len(ids) for _, ids in chunks]) - 1
        return self._head(x if len(ends) == len(x) else x[ends])

    def _check(self, ids: Sequence[int], cache: KVCache, slot: int) -> None:
        start = int(cache.lengths[slot])
        if not 0 < len(ids) <= self.config.block_size - start:
            raise ValueError(f"{len(ids)} tokens behind {start} do not fit a block of {self.config.block_size}")

    def _run(self, cache: KVCache, tokens: Sequence[int], chunks: Sequence[tuple[int, Sequence[int]]]) -> Array:
        """What the last layer says of each token and of each id of the chunks, (B + all of them, D)."""
        steps = _Steps(cache, len(tokens))
        starts = [int(cache.lengths[slot]) for slot, _ in chunks]
        ids = np.concatenate([tokens, *(part for _, part in chunks)]).astype(np.intp)
        spans = [np.arange(start, start + len(part)) for start, (_, part) in zip(starts, chunks, strict=True)]
        positions = np.concatenate([steps.lengths, *spans])
        x: Array = self._token[ids] + self._position[positions]
        for layer, (qkv, wo, fc1, fc2) in enumerate(self._layers):
            heads = qkv(_norm(x)).reshape(len(x), 3, self.config.n_head, -1)
            parts, row = [], len(tokens)
            if tokens:
                parts.append(steps.attend(layer, heads[:row]))
            for start, (slot, part) in zip(starts, chunks, strict=True):
                keys, values = cache.keys[slot, layer], cache.values[slot, layer]
                parts.append(_attend(heads[row : row + len(part)], keys, values, start))
                row += len(part)
            x += wo(parts[0] if len(parts) == 1 else np.concatenate(parts))
            hidden = fc1(_norm(x))
            np.maximum(hidden, 0, out=hidden)
            hidden *= hidden
            x += fc2(hidden)
        cache.lengths[: len(tokens)] += 1
        for slot, part in chunks:
            cache.lengths[slot] += len(part)
        return x


class _Columns:
    """A product with (out, in) matrices, one above the other: (n, in) to (n, out)."""

    def __init__(self, matrices: Sequence[Array], room: Array) -> None:
        whole = np.concatenate(matrices)
        self._out = len(whole)
        width = self._width(whole.shape[1])
        padded = np.pad(whole, ((0, -self._out % width), (0, 0)))
        self._blocks = room.reshape(-1, whole.shape[1], width)
        self._blocks[:] = padded.reshape(-1, width, whole.shape[1]).transpose(0, 2, 1)
        self._rows = max(1, _PRODUCT // self._blocks[0].size)

    @classmethod
    def size(cls, shape: tuple[int, int]) -> int:
        """Entries of the room for matrices of this shape (out, in), all together."""
        width = cls._width(shape[1])
        return width * -(-shape[0] // width) * shape[1]

    @staticmethod
    def _width(columns: int) -> int:
        return max(1, min(_WIDTH, _BLOCK // columns))

    def __call__(self, x: Array) -> Array:
        out = np.empty((len(x), len(self._blocks), self._blocks.shape[2]), np.float32)
        products = out.transpose(1, 0, 2)
        rows = -(-len(x) // -(-len(x) // self._rows))  # in even parts
        for start in range(0, len(x), rows):
            np.matmul(x[start : start + rows], self._blocks, out=products[:, start : start + rows])
        return out.reshape(len(x), -1)[:, : self._out]


class _Steps:
    """One token more for each of the first slots: what is the same for all layers."""

    def __init__(self, cache: KVCache, count: int) -> None:
        self._rows = np.arange(count)
        self._cache = cache
        self.lengths = cache.lengths[:count].copy()  # where each token goes, (B,)
        self._end = int(self.lengths.max(initial=0)) + 1
        if self._end > 0.7 * cache.keys.shape[3] and count > 1:
            self._end = cache.keys.shape[3]  # much is read sooner without gaps
        beyond = np.arange(self._end) > self.lengths[:, None]
        self._mask = np.where(beyond, np.float32(-np.inf), np.float32(0))[:, None]  # (B, 1, T)
        self._even = not beyond.any()
        self._scale = np.sqrt(np.float32(cache.keys.shape[4]))

    def attend(self, layer: int, heads: Array) -> Array:
        """Mixed values (B, D) from queries, keys and values (B, 3, H, D / H); these go into the cache."""
        cache, count = self._cache, len(heads)
        cache.keys[self._rows, layer, :, self.lengths] = heads[:, 1]
        cache.values[self._rows, layer, :, self.lengths] = heads[:, 2]
        query = heads[:, 0] / self._scale
        scores: Array = (cache.keys[:count, layer, :, : self._end] @ query[..., None])[..., 0]  # (B, H, T)
        if not self._even:
            scores += self._mask
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        mixed = (scores[:, :, None] @ cache.values[:count, layer, :, : self._end])[:, :, 0]  # (B, H, D / H)
        mixed /= scores.sum(axis=-1, keepdims=True)
        return mixed.reshape(count, -1)


def _attend(heads: Array, keys: Array, values: Array, start: int) -> Array:
    """Mixed values (t, D) of one sequence's t new positions; keys and values go behind the `start` that are there."""
    length = len(heads)
    end = start + length
    query, key, value = heads.transpose(1, 2, 0, 3)  # (H, t, D / H) each
    keys[:, start:end] = key
    values[:, start:end] = value
    scores: Array = query @ keys[:, :end].transpose(0, 2, 1)  # (H, t, end)
    scores /= np.sqrt(np.float32(query.shape[-1]))
    if length > 1:
        scores[:, ~np.tri(length, end, start, dtype=bool)] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed: Array = scores @ values[:, :end]  # (H, t, D / H)
    return mixed.transpose(1, 0, 2).reshape(length, -1)


def _norm(x: Array) -> Array:
    scale: Array = x / np.sqrt(np.vecdot(x, x)[:, None] / np.float32(x.shape[-1]) + _EPS)
    return scale
