"""Operations of a training step, where those of the library are slow on a CPU: exact derivatives by hand. No I/O."""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from randygpt.model.config import NORM_EPS

_SLICES = 32  # heads of windows whose attention weights are worked on at once: they stay in the processor's cache


def norm(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """RMSNorm without scale over the last dimension of float32 x, given in `dtype`."""
    result: Tensor = _Norm.apply(x, dtype)  # type: ignore[no-untyped-call]
    return result


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)², element by element."""
    result: Tensor = _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]
    return result


def causal_attention(qkv: Tensor, n_head: int) -> Tensor:
    """Mixed values (B, T, D) of queries, keys and values (B, T, 3D), each position looking at those up to it.

    On a CPU in bfloat16, scores, weights and sums of products are rounded to bfloat16, as `torch.autocast` does on a
    graphics card.
    """
    batch, length, width = qkv.shape
    heads = qkv.view(batch, length, 3, n_head, width // 3 // n_head).permute(2, 0, 3, 1, 4)  # (3, B, H, T, D / H)
    if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu":
        flat = heads.reshape(3, batch * n_head, length, -1)
        mixed = _CausalAttention.apply(flat).view(batch, n_head, length, -1)  # type: ignore[no-untyped-call]
    else:
        query, keys, values = heads
        mixed = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
    result: Tensor = mixed.transpose(1, 2).reshape(batch, length, width // 3)
    return result


class Dropout:
    """Zeroes elements of (B, T, D) with a probability (to 1 in 65,536), and makes the others larger to make up for it.

    What a window loses depends on seed, iteration, the window's place in the global batch, and how many masks it had
    before in this iteration: not on how a batch is cut into parts or spread over processes (on a CPU).
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability
        self._generators: list[np.random.Generator] = []

    def begin(self, *, seed: int, iteration: int, windows: range) -> Self:
        """Get ready for a forward pass of these windows of a global batch."""
        self._generators = [
            np.random.Generator(np.random.SFC64([seed, iteration, window])) for window in windows if self.probability
        ]
        torch.manual_seed(int(np.random.SeedSequence([seed, iteration, windows.start]).generate_state(1)[0]))
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Drop from x (B, T, D)."""
        if not self.probability:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.probability)
        size = x[0].numel()
        bits = np.empty((len(x), -(-size // 4)), dtype=np.uint64)  # 16 bits an element: far quicker than a float each
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
    """Of (3, N, T, C) in bfloat16, by batched matrix products over a few of the N at a time."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:  # noqa: ANN401
        query, keys, values = qkv
        count, length, size = query.shape
        query = query * size**-0.5
        ahead = torch.full((length, length), float("-inf"), dtype=qkv.dtype).triu(1)
        scores = torch.empty(min(count, _SLICES), length, length, dtype=qkv.dtype)
        weights = torch.empty(count, length, length, dtype=qkv.dtype)
        mixed = torch.empty_like(query)
        for part in _parts(count):
            some = scores[: part.stop - part.start]
            torch.baddbmm(ahead, query[part], keys[part].mT, out=some)
            torch.softmax(some, dim=-1, out=weights[part])
            torch.bmm(weights[part], values[part], out=mixed[part])
        ctx.save_for_backward(qkv, query, weights)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        qkv, query, weights = ctx.saved_tensors
        _, keys, values = qkv
        grad_mixed = grads[0].contiguous()
        grad = torch.empty_like(qkv)
        buffer = torch.empty_like(weights[:_SLICES])
        for part in _parts(len(query)):
            weight, some = weights[part], buffer[: part.stop - part.start]
            torch.bmm(grad_mixed[part], values[part].mT, out=some)
            grad_scores = torch._softmax_backward_data(some, weight, -1, weight.dtype)  # noqa: SLF001 (no public one)
            torch.bmm(grad_scores, keys[part], out=grad[0, part])
            torch.bmm(grad_scores.mT, query[part], out=grad[1, part])
            torch.bmm(weight.mT, grad_mixed[part], out=grad[2, part])
        grad[0] *= query.shape[-1] ** -0.5
        return grad


def _parts(count: int) -> list[slice]:
    return [slice(start, min(start + _SLICES, count)) for start in range(0, count, _SLICES)]
