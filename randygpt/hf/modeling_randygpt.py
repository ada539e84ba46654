"""randyGPT model for transformers.

Token and position embeddings, then in each layer causal attention and a squared-ReLU MLP, each after an RMSNorm without
scale. No final norm, no biases. A sequence longer than `block_size` raises ValueError. DynamicCache is supported,
static caches are not.
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
    """Transformer block: attention and MLP, each added to the residual stream (B, T, D)."""

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
        """Map (B, T, D) to (B, T, D); the mask `allowed` (B or 1, 1, T, S) is true where a token may attend."""
        batch, length, dim = x.shape
        normed = _norm(x)
        heads = (batch, length, self.n_head, dim // self.n_head)
        query, keys, values = (
            linear(normed).view(heads).transpose(1, 2) for linear in (self.wq, self.wk, self.wv)
        )  # each (B, H, T, D / H)
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)
        output = functional.scaled_dot_product_attention(query, keys, values, attn_mask=allowed)  # (B, H, T, D / H)
        x = x + self.wo(output.transpose(1, 2).reshape(batch, length, dim))
        hidden: Tensor = self.fc2(self.fc1(_norm(x)).relu().square())
        return x + hidden


class RandyGPTForCausalLM(PreTrainedModel, GenerationMixin):
    """Decoder-only transformer over token ids; input and output embeddings are not tied."""

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
        """Return the token embedding."""
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embedding."""
        self.wte = value

    def get_output_embeddings(self) -> nn.Module:
        """Return the output head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output head."""
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
        """Return the logits (B, T, V) of ids (B, T) that follow the S - T tokens of a cache.

        Args:
            input_ids: Token ids (B, T).
            attention_mask: (B, S), 0 for padding.
            position_ids: Positions (B, T); by default those after the cache.
            past_key_values: A DynamicCache; created if `use_cache` is set.
            inputs_embeds: Embeddings (B, T, D) instead of ids.
            labels: Target ids (B, T) to compute a loss for.
            use_cache: Return a cache; by default what the configuration says.
            logits_to_keep: Return the logits of this many last tokens only; 0 for all.
            return_dict: False returns a tuple.
            **kwargs: Passed to the loss function.

        Raises:
            ValueError: S exceeds `block_size`, or the cache is static.
        """
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, D)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        if past_key_values is not None and past_key_values.is_compileable:
            raise ValueError("static caches are not supported: use a DynamicCache")
        start = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = x.shape[1]
        if start + length > self.config.block_size:
            raise ValueError(f"{start + length} tokens exceed the context length of {self.config.block_size}")
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
    """Return the attention mask (B or 1, 1, T, S) of `length` tokens T that follow `start` others, S in all."""
    keys = torch.arange(start + length, device=device)
    queries = keys[start:, None]
    allowed = (keys <= queries)[None, None]
    if attention_mask is not None:
        padding = attention_mask[:, None, None, :].to(device) == 0
        allowed = allowed & ~padding | (keys == queries)  # padding attends to itself: an empty row would be NaN
    return allowed
