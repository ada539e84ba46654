"""The network: token and position embeddings, then per layer attention and a squared-ReLU MLP. No I/O.

RMSNorm without scale before each half of a layer, none at the end; no biases (randyGPT model.rs). All weights are
views into one flat vector in file order, so that a checkpoint is that vector and an optimiser step is one kernel.
"""

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from randygpt.config import ModelConfig
from randygpt.header import tensor_shapes

NORM_EPS = 1e-5
INIT_STD = 0.02


class KVCache:
    """Keys and values of the positions a sequence has been through, (L, 2, B, H, T, D / H)."""

    def __init__(self, config: ModelConfig, *, batch_size: int = 1, device: torch.device | None = None) -> None:
        head_size = config.n_embd // config.n_head
        shape = (config.n_layer, 2, batch_size, config.n_head, config.block_size, head_size)
        self._store = torch.empty(shape, device=device)
        self.length = 0  # positions filled

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put (B, H, t, D / H) behind what is there; returns all keys and values of the layer up to now."""
        end = self.length + keys.shape[2]
        store = self._store[layer]
        store[0, :, :, self.length : end] = keys
        store[1, :, :, self.length : end] = values
        return store[0, :, :, :end], store[1, :, :, :end]


class Layer(nn.Module):
    """Attention and MLP, each added to the residual stream (B, T, D)."""

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor], dropout: float) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = dropout
        self.training_dtype = torch.float32  # of the linear maps in training; weights, attention, sums stay float32
        self.qkv = nn.Parameter(weights["qkv"])  # (3D, D)
        self.wo = nn.Parameter(weights["wo"])  # (D, D)
        self.fc1 = nn.Parameter(weights["fc1"])  # (4D, D)
        self.fc2 = nn.Parameter(weights["fc2"])  # (D, 4D)

    def forward(self, x: Tensor, cache: KVCache | None, index: int) -> Tensor:
        """(B, T, D) to (B, T, D); with a cache, x holds the positions behind those in it."""
        batch, length, dim = x.shape
        heads = self._linear(_norm(x), self.qkv).float().view(batch, length, 3, self.n_head, dim // self.n_head)
        query, keys, values = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, D / H)
        if cache is not None:
            keys, values = cache.extend(index, keys, values)
        mixed = functional.scaled_dot_product_attention(query, keys, values, is_causal=length > 1)
        mixed = mixed.transpose(1, 2).reshape(batch, length, dim)
        x = x + self._drop(self._linear(mixed, self.wo))
        hidden = self._linear(_norm(x), self.fc1).relu().square()  # (B, T, 4D)
        return x + self._drop(self._linear(hidden, self.fc2))

    def _linear(self, x: Tensor, weight: Tensor) -> Tensor:
        dtype = self.training_dtype if self.training else torch.float32
        return functional.linear(x.to(dtype), weight.to(dtype))

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout) if self.dropout and self.training else x


class GPT(nn.Module):
    """A decoder-only transformer over token ids."""

    def __init__(self, config: ModelConfig, flat: Tensor, *, dropout: float = 0.0) -> None:
        """`flat` (P,) holds the weights in file order, and is what the parameters are views of."""
        super().__init__()
        self.config = config
        self.flat = flat
        weights = _views(config, flat)
        self.wte = nn.Parameter(weights["wte"])  # (V, D)
        self.wpe = nn.Parameter(weights["wpe"])  # (T, D)
        self.lm_head = nn.Parameter(weights["lm_head"])  # (V, D)
        self.layers = nn.ModuleList(
            Layer(config, {name: weights[f"layer{index}.{name}"] for name in ("qkv", "wo", "fc1", "fc2")}, dropout)
            for index in range(config.n_layer)
        )

    @classmethod
    def initialise(cls, config: ModelConfig, *, seed: int, dropout: float = 0.0, device: str = "cpu") -> Self:
        """New weights as GPT-2 draws them: normal, 0.02, output projections smaller by sqrt(2 L)."""
        generator = torch.Generator().manual_seed(seed)
        flat = torch.empty(config.parameter_count)
        for name, view in _views(config, flat).items():
            is_output = name.endswith((".wo", ".fc2"))
            view.normal_(0, INIT_STD / math.sqrt(2 * config.n_layer) if is_output else INIT_STD, generator=generator)
        return cls(config, flat.to(device), dropout=dropout)

    def set_training_dtype(self, dtype: torch.dtype) -> None:
        """Do the layers' linear maps in this type while training; evaluation and generation stay float32."""
        for layer in self.layers:
            if isinstance(layer, Layer):
                layer.training_dtype = dtype

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of token ids (B, T), T at most block_size.

        With a cache, the ids follow those it has seen, and it grows by T: first a prompt of any length, then one
        token at a time; only the last position's logits are computed, (B, 1, V). Raises ValueError beyond block_size,
        and for several tokens behind a prompt.
        """
        length = ids.shape[1]
        start = cache.length if cache is not None else 0
        if start + length > self.config.block_size or (start and length > 1):
            raise ValueError(f"{length} tokens behind {start} do not fit a block of {self.config.block_size}")
        x = functional.embedding(ids, self.wte) + self.wpe[start : start + length]  # (B, T, D)
        for index, layer in enumerate(self.layers):
            x = layer(x, cache, index)
        if cache is not None:
            cache.length += length
            x = x[:, -1:]
        return functional.linear(x, self.lm_head)


def drop(x: Tensor, probability: float) -> Tensor:
    """Dropout: each element zero with this probability (to 1 in 65,536), the others larger to make up for it.

    The mask is made from 64 random bits for four elements, several times faster on a CPU than a draw for each.
    """
    if x.device.type != "cpu":
        return functional.dropout(x, probability)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)  # uniform in -32,768 … 32,767
    kept = bits >= round(probability * 2**16) - 2**15
    return x * kept.to(x.dtype).mul_(1 / (1 - probability))


def _norm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=NORM_EPS)


def _views(config: ModelConfig, flat: Tensor) -> dict[str, Tensor]:
    """The weights as views of the flat vector; wq, wk, wv are neighbours there, and become one `qkv` (3D, D)."""
    views: dict[str, Tensor] = {}
    offset = 0
    for name, (rows, columns) in tensor_shapes(config).items():
        if name.endswith((".wk", ".wv")):
            continue
        total = 3 * rows if name.endswith(".wq") else rows
        views[name.replace(".wq", ".qkv")] = flat[offset : offset + total * columns].view(total, columns)
        offset += total * columns
    return views


def gradient_views(model: GPT, gradient: Tensor) -> None:
    """Have every parameter's gradient gathered in one vector (P,), in file order."""
    views = _views(model.config, gradient)
    for name, parameter in model.named_parameters():
        parameter.grad = views[name.replace("layers.", "layer")]
