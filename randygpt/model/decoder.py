"""Inference network in numpy, on the CPU, without torch. No I/O.

Sequences are batched, each with its keys and values in one slot of a KV cache, so that a decode step computes one row
per sequence. At this size decoding is bound by memory bandwidth: weights are packed into column blocks that a product
reads sequentially (decisions 0015 and 0029). Where it was built, a compiled kernel computes decode steps (0061).

Shapes: B sequences, T tokens, D = n_embd, H = n_head, L = n_layer, V = vocab_size; N is the number of rows of a step.
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import islice
from typing import Self

import numpy as np
import numpy.typing as npt

from randygpt.model.config import NORM_EPS, ModelConfig
from randygpt.model.decode_kernel import DecodeKernel, default_threads
from randygpt.model.layout import tensor_shapes

Array = npt.NDArray[np.float32]
PREFILL_CHUNK = 64  # prompt tokens per step: more would delay the other sequences without finishing sooner
_MAX_LOGITS = 1 << 22  # logits of several positions that are computed at once
_EPS = np.float32(NORM_EPS)
_BLOCK_WIDTHS = (64, 32, 16)  # columns of a weight block; the decode kernel needs whole vectors
_BLOCK_SIZE = 1 << 15  # entries of a weight block, at most, unless it has the fewest columns
_MAX_PRODUCT = 10**6  # multiplications up to which OpenBLAS does not copy the matrix first


class KVCache:
    """Keys and values of several sequences, each in its own slot."""

    def __init__(self, config: ModelConfig, slots: int = 1) -> None:
        shape = (slots, config.n_layer, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.keys = np.zeros(shape, np.float32)  # (S, L, H, T, D / H); entries past a sequence's end must be finite
        self.values = np.zeros(shape, np.float32)
        self.lengths = np.zeros(slots, np.intp)  # cached tokens of each slot, (S,)

    @staticmethod
    def slot_bytes(config: ModelConfig) -> int:
        """Return the memory of one slot, in bytes."""
        return 8 * config.n_layer * config.block_size * config.n_embd

    def partition(self, index: int, count: int) -> "KVCache":
        """Return a view of the slots of decode worker `index` out of `count`, about as many for each."""
        total = len(self.lengths)
        return self.slots(slice(total * index // count, total * (index + 1) // count))

    def slots(self, which: slice) -> "KVCache":
        """Return a view of some slots."""
        part = copy(self)
        part.keys, part.values, part.lengths = self.keys[which], self.values[which], self.lengths[which]
        return part

    def get(self, slot: int) -> tuple[Array, Array]:
        """Return copies of a slot's keys and values, (L, H, t, D / H) each."""
        end = self.lengths[slot]
        return self.keys[slot, :, :, :end].copy(), self.values[slot, :, :, :end].copy()

    def put(self, slot: int, keys: Array, values: Array) -> None:
        """Fill a slot with a sequence's keys and values, (L, H, t, D / H) each."""
        end = self.lengths[slot] = keys.shape[2]
        self.keys[slot, :, :, :end] = keys
        self.values[slot, :, :, :end] = values

    def move(self, source: int, target: int) -> None:
        """Copy a slot's sequence to another slot."""
        end = self.lengths[source]
        self.put(target, self.keys[source, :, :, :end], self.values[source, :, :, :end])


class Decoder:
    """The GPT network for inference. Safe to use from several threads, each with its own cache slots."""

    def __init__(self, config: ModelConfig, matrices: Iterable[Array]) -> None:
        """Copy the weight matrices, which come in file order (`tensor_shapes`), one at a time."""
        self.config = config
        dim, remaining = config.n_embd, iter(matrices)
        # (matrices to stack, shape of the stack): wq, wk and wv become one qkv
        layer = ((3, (3 * dim, dim)), (1, (dim, dim)), (1, (4 * dim, dim)), (1, (dim, 4 * dim)))
        linears = [(1, (config.vocab_size, dim)), *(layer * config.n_layer)]
        sizes = [_BlockedLinear.packed_size(shape) for _, shape in linears]
        memory = _aligned(sum(sizes))  # one allocation: the kernel backs it with huge pages
        buffers = np.split(memory, np.cumsum(sizes)[:-1])
        self._wte, self._wpe = next(remaining).copy(), next(remaining).copy()  # (V, D), (block_size, D)
        self._lm_head, *rest = (
            _BlockedLinear(list(islice(remaining, count)), buffer)
            for (count, _), buffer in zip(linears, buffers, strict=True)
        )
        self._layers = [rest[start : start + 4] for start in range(0, len(rest), 4)]
        blocks = [each.blocks for each in (*rest, self._lm_head)]
        self._kernel = DecodeKernel.load(config, self._wte, self._wpe, blocks)

    @classmethod
    def from_flat(cls, config: ModelConfig, weights: Array) -> Self:
        """Return the network of a weight vector (P,) in file order."""
        shapes = tensor_shapes(config).values()
        parts = np.split(weights, np.cumsum([rows * columns for rows, columns in shapes])[:-1])
        return cls(config, (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

    def logits(self, ids: Sequence[int]) -> Array:
        """Return the logits (T, V) of a whole sequence (T,); raise ValueError if it exceeds the context length."""
        logits, end = np.empty((len(ids), self.config.vocab_size), np.float32), 0
        for part in self.iter_logits(ids, KVCache(self.config)):
            start, end = end, end + len(part)
            logits[start:end] = part
        return logits

    def iter_logits(self, ids: Sequence[int], cache: KVCache, slot: int = 0) -> Iterator[Array]:
        """Append ids (t,) to a slot and yield the logits (n, V) after each, in parts of bounded size.

        Raises:
            ValueError: The sequence exceeds the context length.
        """
        self._check_fits(ids, cache, slot)
        rows = max(1, _MAX_LOGITS // self.config.vocab_size)
        for start in range(0, len(ids), PREFILL_CHUNK):
            x = self._run_layers(cache, (), [(slot, ids[start : start + PREFILL_CHUNK])])  # (N, D)
            for row in range(0, len(x), rows):
                yield self._lm_head(x[row : row + rows])

    def next_logits(self, ids: Sequence[int], cache: KVCache, slot: int = 0) -> Array:
        """Append ids (t,) to a slot and return the logits (V,) after the last of them.

        Raises:
            ValueError: The sequence exceeds the context length.
        """
        self._check_fits(ids, cache, slot)
        for start in range(0, len(ids) - PREFILL_CHUNK, PREFILL_CHUNK):
            self._run_layers(cache, (), [(slot, ids[start : start + PREFILL_CHUNK])])
        rest = ids[(len(ids) - 1) // PREFILL_CHUNK * PREFILL_CHUNK :]
        if len(ids) == 1:
            last = self.forward(cache.slots(slice(slot, slot + 1)), ids, (), threads=default_threads())
        else:
            last = self.forward(cache, (), [(slot, rest)])
        logits: Array = last[0]
        return logits

    def forward(
        self,
        cache: KVCache,
        tokens: Sequence[int],
        chunks: Sequence[tuple[int, Sequence[int]]],
        *,
        threads: int = 1,
    ) -> Array:
        """Run one step: decode one token for each of the first B slots, and prefill C chunks of prompts.

        Args:
            cache: Grows by what is given; every slot must have room for it.
            tokens: The last token (B,) of each of the first B slots.
            chunks: (slot, ids) of each prompt chunk.
            threads: Threads to decode with, where the decode kernel is used.

        Returns:
            Logits (B + C, V) after each token and after the last id of each chunk.
        """
        if self._kernel and tokens:
            decoded = self._kernel.step(tokens, cache.lengths, (cache.keys, cache.values), threads)
            cache.lengths[: len(tokens)] += 1
            return np.concatenate([decoded, self.forward(cache, (), chunks)]) if chunks else decoded
        x = self._run_layers(cache, tokens, chunks)  # (N, D)
        ends = np.cumsum([1] * len(tokens) + [len(ids) for _, ids in chunks]) - 1
        return self._lm_head(x if len(ends) == len(x) else x[ends])

    def _check_fits(self, ids: Sequence[int], cache: KVCache, slot: int) -> None:
        start = int(cache.lengths[slot])
        if not 0 < len(ids) <= self.config.block_size - start:
            raise ValueError(f"{len(ids)} tokens after {start} do not fit a context length of {self.config.block_size}")

    def _run_layers(self, cache: KVCache, tokens: Sequence[int], chunks: Sequence[tuple[int, Sequence[int]]]) -> Array:
        """Return the last hidden state (N, D) of each token, then of each id of the chunks."""
        decoding = _DecodeAttention(cache, len(tokens))
        starts = [int(cache.lengths[slot]) for slot, _ in chunks]
        ids = np.concatenate([tokens, *(part for _, part in chunks)]).astype(np.intp)  # (N,)
        spans = [np.arange(start, start + len(part)) for start, (_, part) in zip(starts, chunks, strict=True)]
        positions = np.concatenate([decoding.lengths, *spans])  # (N,)
        x: Array = self._wte[ids] + self._wpe[positions]  # (N, D)
        for layer, (qkv, wo, fc1, fc2) in enumerate(self._layers):
            heads = qkv(_norm(x)).reshape(len(x), 3, self.config.n_head, -1)  # (N, 3D) -> (N, 3, H, D / H)
            parts, row = [], len(tokens)
            if tokens:
                parts.append(decoding.attend(layer, heads[:row]))
            for start, (slot, part) in zip(starts, chunks, strict=True):
                keys, values = cache.keys[slot, layer], cache.values[slot, layer]  # (H, T, D / H)
                parts.append(_prefill_attention(heads[row : row + len(part)], keys, values, start))
                row += len(part)
            x += wo(parts[0] if len(parts) == 1 else np.concatenate(parts))  # (N, D)
            hidden = fc1(_norm(x))  # (N, 4D)
            np.maximum(hidden, 0, out=hidden)
            hidden *= hidden
            x += fc2(hidden)
        cache.lengths[: len(tokens)] += 1
        for slot, part in chunks:
            cache.lengths[slot] += len(part)
        return x


class _BlockedLinear:
    """Linear layer (N, in) -> (N, out) whose weights (out, in) are packed into blocks of columns.

    A block is small enough that OpenBLAS multiplies with it in place, and is read from start to end (decision 0029).
    """

    def __init__(self, matrices: Sequence[Array], buffer: Array) -> None:
        """Stack the matrices (out, in) and pack them, transposed, into `buffer`."""
        whole = np.concatenate(matrices)  # (out, in)
        self._out = len(whole)
        width = self._block_width(whole.shape[1])
        padded = np.pad(whole, ((0, -self._out % width), (0, 0)))
        self.blocks = buffer.reshape(-1, whole.shape[1], width)  # (blocks, in, width)
        self.blocks[:] = padded.reshape(-1, width, whole.shape[1]).transpose(0, 2, 1)
        self._max_rows = max(1, _MAX_PRODUCT // self.blocks[0].size)

    @classmethod
    def packed_size(cls, shape: tuple[int, int]) -> int:
        """Return the number of entries that weights (out, in) take when packed."""
        width = cls._block_width(shape[1])
        return width * -(-shape[0] // width) * shape[1]

    @staticmethod
    def _block_width(columns: int) -> int:
        return next((width for width in _BLOCK_WIDTHS if width * columns <= _BLOCK_SIZE), _BLOCK_WIDTHS[-1])

    def __call__(self, x: Array) -> Array:
        out = np.empty((len(x), len(self.blocks), self.blocks.shape[2]), np.float32)  # (N, blocks, width)
        by_block = out.transpose(1, 0, 2)
        rows = -(-len(x) // -(-len(x) // self._max_rows))  # even parts of at most max_rows
        for start in range(0, len(x), rows):
            # (rows, in) @ (blocks, in, width) -> (blocks, rows, width)
            np.matmul(x[start : start + rows], self.blocks, out=by_block[:, start : start + rows])
        return out.reshape(len(x), -1)[:, : self._out]  # drop the padding


class _DecodeAttention:
    """Attention of one new token for each of the first B slots; computes once what all layers share."""

    def __init__(self, cache: KVCache, count: int) -> None:
        self._rows = np.arange(count)
        self._cache = cache
        self.lengths = cache.lengths[:count].copy()  # position of each new token, (B,)
        self._end = int(self.lengths.max(initial=0)) + 1
        if self._end > 0.7 * cache.keys.shape[3] and count > 1:
            self._end = cache.keys.shape[3]  # a long read is faster without gaps
        beyond = np.arange(self._end) > self.lengths[:, None]  # (B, T)
        self._mask = np.where(beyond, np.float32(-np.inf), np.float32(0))[:, None]  # (B, 1, T)
        self._needs_mask = bool(beyond.any())
        self._scale = np.sqrt(np.float32(cache.keys.shape[4]))

    def attend(self, layer: int, heads: Array) -> Array:
        """Cache the new keys and values and return the attention output (B, D) of q, k, v (B, 3, H, D / H)."""
        cache, count = self._cache, len(heads)
        cache.keys[self._rows, layer, :, self.lengths] = heads[:, 1]
        cache.values[self._rows, layer, :, self.lengths] = heads[:, 2]
        query = heads[:, 0] / self._scale  # (B, H, D / H)
        # (B, H, T, D / H) @ (B, H, D / H, 1) -> (B, H, T)
        scores: Array = (cache.keys[:count, layer, :, : self._end] @ query[..., None])[..., 0]
        if self._needs_mask:
            scores += self._mask
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        # (B, H, 1, T) @ (B, H, T, D / H) -> (B, H, D / H)
        output = (scores[:, :, None] @ cache.values[:count, layer, :, : self._end])[:, :, 0]
        output /= scores.sum(axis=-1, keepdims=True)
        return output.reshape(count, -1)


def _aligned(count: int) -> Array:
    """Return uninitialized memory (count,) that begins at a cache line."""
    line = 64  # bytes
    memory = np.empty(count + line // 4, np.float32)
    start = -memory.ctypes.data % line // 4
    return memory[start : start + count]


def _prefill_attention(heads: Array, keys: Array, values: Array, start: int) -> Array:
    """Return the causal attention output (t, D) of t prompt tokens that follow `start` cached ones.

    Args:
        heads: Queries, keys and values (t, 3, H, D / H) of the new tokens.
        keys: The slot's cached keys (H, T, D / H); the new ones are written to it.
        values: The slot's cached values (H, T, D / H).
        start: Number of cached tokens.
    """
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
    output: Array = scores @ values[:, :end]  # (H, t, D / H)
    return output.transpose(1, 0, 2).reshape(length, -1)  # (H, t, D / H) -> (t, D)


def _norm(x: Array) -> Array:
    """Return the RMSNorm without scale of x (N, D)."""
    normed: Array = x / np.sqrt(np.vecdot(x, x)[:, None] / np.float32(x.shape[-1]) + _EPS)
    return normed
