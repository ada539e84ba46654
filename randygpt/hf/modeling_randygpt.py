"""A randyGPT model, for transformers: token and position embeddings, then attention and a squared-ReLU MLP per layer.

RMSNorm without scale before each half of a layer, none at the end; no biases. It knows `block_size` positions, and more
is a ValueError. A key-value cache that grows (DynamicCache) is supported, a static one is not.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_randygpt import RandyGPTConfig

NORM_EPS = 1e-5


class RandyGPTLayer(nn.Module):
    """Attention and MLP, each added to the residual stream (B, T, D)."""

    def __init__(self, config: RandyGPTConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.n_head = config.n_head
        dim = config.n_embd
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, dim, bias=False)
        self.wv = nn.Linear(dim, dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.fc1 = nn.Linear(dim, 4 * dim, bias=False)
        self.fc2 = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor, allowed: Tensor, cache: Cache | None) -> Tensor:
        """(B, T, D) to (B, T, D); `allowed` (B or 1, 1, T, S) says which of S positions each of T may look at."""
        batch, length, dim = x.shape
        normed = _norm(x)
        heads = (batch, length, self.n_head, dim // self.n_head)
        query, keys, values = (
            linear(normed).view(heads).transpose(1, 2) for linear in (self.wq, self.wk, self.wv)
        )  # each (B, H, T, D / H)
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=allowed)
        x = x + self.wo(mixed.transpose(1, 2).reshape(batch, length, dim))
        hidden: Tensor = self.fc2(self.fc1(_norm(x)).relu().square())
        return x + hidden


class RandyGPTForCausalLM(PreTrainedModel, GenerationMixin):
    """A decoder-only transformer over token ids; input and output embeddings are not tied."""

    config_class = RandyGPTConfig
    base_model_prefix = ""
    _no_split_modules: ClassVar[list[str]] = ["RandyGPTLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True

    def __init__(self, config: RandyGPTConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.layers = nn.ModuleList(RandyGPTLayer(config, index) for index in range(config.n_layer))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embedding."""
        self.wte = value

    def get_output_embeddings(self) -> nn.Module:
        """The map to logits."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the map to logits."""
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (B, T, V) of ids (B, T) behind the S - T positions of a cache; the last `logits_to_keep`, 0: all.

        `attention_mask` (B, S) is 0 where a position is padding. Raises ValueError where S is over block_size.
        """
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, D)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        if past_key_values is not None and past_key_values.is_compileable:
            raise ValueError("a static cache is not supported; a DynamicCache is")
        start = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = x.shape[1]
        if start + length > self.config.block_size:
            raise ValueError(f"{start + length} positions, but this model knows {self.config.block_size}")
        if position_ids is None:
            position_ids = torch.arange(start, start + length, device=x.device)[None]
        x = x + self.wpe(position_ids)
        allowed = _allowed(start, length, attention_mask, x.device)
        for layer in self.layers:
            x = layer(x, allowed, past_key_values)
        logits = self.lm_head(x[:, -logits_to_keep:])
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
        return output if return_dict is not False else output.to_tuple()


def _norm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=NORM_EPS)


def _allowed(start: int, length: int, attention_mask: Tensor | None, device: torch.device) -> Tensor:
    """Which of S = start + length positions each of the last `length` may look at, (B or 1, 1, T, S)."""
    keys = torch.arange(start + length, device=device)
    queries = keys[start:, None]
    allowed = (keys <= queries)[None, None]
    if attention_mask is not None:
        padding = attention_mask[:, None, None, :].to(device) == 0
        allowed = allowed & ~padding | (keys == queries)  # itself: a row of nothing may be NaN
    return allowed
