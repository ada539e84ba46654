"""The GPT network in torch, as it is trained. No I/O.

Token and position embeddings, then in each layer causal attention and a squared-ReLU MLP, each after an RMSNorm
without scale. No final norm and no biases (randyGPT model.rs). All weights are views into one flat vector (P,) in file
order: saving writes that vector, and an optimizer step is one kernel (decision 0011).
"""

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from randygpt.model.config import ModelConfig
from randygpt.model.layout import tensor_shapes
from randygpt.model.ops import Dropout, causal_attention, norm, squared_relu

INIT_STD = 0.02


class Layer(nn.Module):
    """Transformer block: attention and MLP, each added to the residual stream (B, T, D)."""

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor], dropout: Dropout) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = dropout
        self.training_dtype = torch.float32  # of activations in training; weights and residual stream stay float32
        self.qkv = nn.Parameter(weights["qkv"])  # (3D, D)
        self.wo = nn.Parameter(weights["wo"])  # (D, D)
        self.fc1 = nn.Parameter(weights["fc1"])  # (4D, D)
        self.fc2 = nn.Parameter(weights["fc2"])  # (D, 4D)

    def forward(self, x: Tensor) -> Tensor:
        """Map the residual stream (B, T, D) to (B, T, D)."""
        dtype = self.training_dtype if self.training else torch.float32
        qkv = functional.linear(norm(x, dtype), self.qkv.to(dtype))  # (B, T, 3D)
        x = x + self._drop(functional.linear(causal_attention(qkv, self.n_head), self.wo.to(dtype)))
        hidden = squared_relu(functional.linear(norm(x, dtype), self.fc1.to(dtype)))  # (B, T, 4D)
        return x + self._drop(functional.linear(hidden, self.fc2.to(dtype)))

    def _drop(self, x: Tensor) -> Tensor:
        return self.dropout(x) if self.training else x


class GPT(nn.Module):
    """Decoder-only transformer over token ids."""

    def __init__(self, config: ModelConfig, flat: Tensor, *, dropout: float = 0.0) -> None:
        """Make the parameters views of `flat` (P,), the weights in file order."""
        super().__init__()
        self.config = config
        self.flat = flat
        self.dropout = Dropout(dropout)
        weights = _views(config, flat)
        self.wte = nn.Parameter(weights["wte"])  # (V, D)
        self.wpe = nn.Parameter(weights["wpe"])  # (block_size, D)
        self.lm_head = nn.Parameter(weights["lm_head"])  # (V, D)
        self.layers = nn.ModuleList(
            Layer(config, {name: weights[f"layer{index}.{name}"] for name in ("qkv", "wo", "fc1", "fc2")}, self.dropout)
            for index in range(config.n_layer)
        )

    @classmethod
    def initialize(cls, config: ModelConfig, *, seed: int, dropout: float = 0.0, device: str = "cpu") -> Self:
        """Return a model with GPT-2's initialization: normal, std 0.02, output projections scaled by 1 / sqrt(2L)."""
        generator = torch.Generator().manual_seed(seed)
        flat = torch.empty(config.parameter_count)
        for name, view in _views(config, flat).items():
            is_output = name.endswith((".wo", ".fc2"))
            view.normal_(0, INIT_STD / math.sqrt(2 * config.n_layer) if is_output else INIT_STD, generator=generator)
        return cls(config, flat.to(device), dropout=dropout)

    def set_training_dtype(self, dtype: torch.dtype) -> None:
        """Set the layers' activation dtype for training; evaluation and generation stay float32."""
        for layer in self.layers:
            if isinstance(layer, Layer):
                layer.training_dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (B, T, V) of token ids (B, T), with T at most `block_size`."""
        x = functional.embedding(ids, self.wte) + self.wpe[: ids.shape[1]]  # (B, T, D)
        for layer in self.layers:
            x = layer(x)
        return functional.linear(x, self.lm_head)


def _views(config: ModelConfig, flat: Tensor) -> dict[str, Tensor]:
    """Return the weights as views of `flat` (P,); wq, wk and wv are adjacent in it and become one `qkv` (3D, D)."""
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
    """Make every parameter's gradient a view of `gradient` (P,), in file order."""
    views = _views(model.config, gradient)
    for name, parameter in model.named_parameters():
        parameter.grad = views[name.replace("layers.", "layer")]
