"""Autograd functions for operations that torch runs slowly on a CPU, with hand-written exact gradients. No I/O.

B is the batch, T the sequence length, D the width, H the number of heads. Attention in bfloat16 is explained in
decision 0016, dropout in 0012.
"""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from randygpt.model.config import NORM_EPS

_SLICES = 32  # (sequence, head) pairs per batched product: their attention weights fit the CPU cache


def norm(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the RMSNorm without scale of float32 x over its last dimension, as `dtype`."""
    result: Tensor = _Norm.apply(x, dtype)  # type: ignore[no-untyped-call]
    return result


def squared_relu(x: Tensor) -> Tensor:
    """Return max(x, 0)², element-wise."""
    result: Tensor = _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]
    return result


def causal_attention(qkv: Tensor, n_head: int) -> Tensor:
    """Return the output (B, T, D) of causal self-attention over queries, keys and values (B, T, 3D).

    In bfloat16 on a CPU, scores, weights and matrix products are rounded to bfloat16, as `torch.autocast` does on a
    GPU.
    """
    batch, length, width = qkv.shape
    heads = qkv.view(batch, length, 3, n_head, width // 3 // n_head).permute(2, 0, 3, 1, 4)  # (3, B, H, T, D / H)
    if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu":
        flat = heads.reshape(3, batch * n_head, length, -1)  # (3, B * H, T, D / H)
        output = _CausalAttention.apply(flat).view(batch, n_head, length, -1)  # type: ignore[no-untyped-call]
    else:
        query, keys, values = heads
        output = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
    result: Tensor = output.transpose(1, 2).reshape(batch, length, width // 3)  # (B, H, T, D / H) -> (B, T, D)
    return result


class Dropout:
    """Dropout over (B, T, D) that is reproducible however a batch is split.

    On a CPU a sequence's masks depend only on the seed, the iteration and its index in the global batch, not on
    micro-batches or processes. The probability has a resolution of 1 in 65,536.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability
        self._generators: list[np.random.Generator] = []

    def begin(self, *, seed: int, iteration: int, sequences: range, device: str = "cpu") -> Self:
        """Seed the masks for a forward pass of these sequences of the global batch."""
        if not self.probability:
            return self
        if device != "cpu":
            torch.manual_seed(int(np.random.SeedSequence([seed, iteration, sequences.start]).generate_state(1)[0]))
            return self
        seeds = ([seed, iteration, index] for index in sequences)
        self._generators = [np.random.Generator(np.random.SFC64(each)) for each in seeds]
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (B, T, D) with elements dropped and the rest scaled up."""
        if not self.probability:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.probability)
        size = x[0].numel()
        bits = np.empty((len(x), -(-size // 4)), dtype=np.uint64)  # 16 random bits per element are cheaper than a float
        for row, generator in zip(bits, self._generators, strict=True):
            row[:] = generator.integers(2**64 - 1, endpoint=True, dtype=np.uint64, size=bits.shape[1])
        words = torch.from_numpy(bits.view(np.int16)[:, :size]).view(x.shape)
        kept = words >= round(self.probability * 2**16) - 2**15
        return x * kept.to(x.dtype).mul_(1 / (1 - self.probability))


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ANN401 (torch's own)
        scale = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1] + NORM_EPS).rsqrt_()
        ctx.save_for_backward(x, scale)
        return torch.mul(x, scale, out=torch.empty_like(x, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        x, scale = ctx.saved_tensors
        grad = grads[0] * scale
        share = torch.linalg.vecdot(grad, x).unsqueeze(-1).mul_(scale.square()).div_(-x.shape[-1])
        return grad.addcmul_(x, share), None


class _SquaredReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        (positive,) = ctx.saved_tensors
        return torch.mul(grads[0], positive).mul_(2)


class _CausalAttention(Function):
    """Causal attention over (3, N, T, C) in bfloat16, in batched products of a few of the N = B * H heads at a time."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:  # noqa: ANN401
        query, keys, values = qkv
        count, length, size = query.shape
        query = query * size**-0.5
        mask = torch.full((length, length), float("-inf"), dtype=qkv.dtype).triu(1)
        scores = torch.empty(min(count, _SLICES), length, length, dtype=qkv.dtype)
        weights = torch.empty(count, length, length, dtype=qkv.dtype)
        output = torch.empty_like(query)
        for part in _slices(count):
            part_scores = scores[: part.stop - part.start]
            torch.baddbmm(mask, query[part], keys[part].mT, out=part_scores)  # (n, T, T)
            torch.softmax(part_scores, dim=-1, out=weights[part])
            torch.bmm(weights[part], values[part], out=output[part])  # (n, T, C)
        ctx.save_for_backward(qkv, query, weights)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        qkv, query, weights = ctx.saved_tensors
        _, keys, values = qkv
        grad_output = grads[0].contiguous()
        grad = torch.empty_like(qkv)
        buffer = torch.empty_like(weights[:_SLICES])
        for part in _slices(len(query)):
            weight, grad_weights = weights[part], buffer[: part.stop - part.start]
            torch.bmm(grad_output[part], values[part].mT, out=grad_weights)  # (n, T, T)
            # torch has no public function for this
            grad_scores = torch._softmax_backward_data(grad_weights, weight, -1, weight.dtype)  # noqa: SLF001
            torch.bmm(grad_scores, keys[part], out=grad[0, part])
            torch.bmm(grad_scores.mT, query[part], out=grad[1, part])
            torch.bmm(weight.mT, grad_output[part], out=grad[2, part])
        grad[0] *= query.shape[-1] ** -0.5
        return grad


def _slices(count: int) -> list[slice]:
    return [slice(start, min(start + _SLICES, count)) for start in range(0, count, _SLICES)]
