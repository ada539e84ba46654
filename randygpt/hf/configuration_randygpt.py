"""Configuration of a randyGPT model for transformers."""

from typing import Any, ClassVar

from transformers import PretrainedConfig


class RandyGPTConfig(PretrainedConfig):
    """Shape of a randyGPT model; `block_size` is the context length, a hard limit."""

    model_type = "randygpt"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "block_size",
    }

    def __init__(
        self,
        n_embd: int = 256,
        n_head: int = 8,
        n_layer: int = 6,
        block_size: int = 256,
        vocab_size: int = 96,
        **kwargs: Any,  # noqa: ANN401 (fields of PretrainedConfig)
    ) -> None:
        self.n_embd = n_embd
        self.n_head = n_head
        self.n_layer = n_layer
        self.block_size = block_size
        self.vocab_size = vocab_size
        self.use_cache = kwargs.pop("use_cache", True)
        defaults = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "tie_word_embeddings": False}
        super().__init__(**(defaults | kwargs))
