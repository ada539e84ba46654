"""Names and shapes of the weight matrices, in checkpoint file order. No I/O."""

from randygpt.model.config import ModelConfig


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return the name and shape (out, in) of each weight matrix, in file order (randyGPT checkpoint.rs)."""
    dim = config.n_embd
    shapes = {
        "wte": (config.vocab_size, dim),
        "wpe": (config.block_size, dim),
        "lm_head": (config.vocab_size, dim),
    }
    for layer in range(config.n_layer):
        shapes |= {f"layer{layer}.{name}": (dim, dim) for name in ("wq", "wk", "wv", "wo")}
        shapes |= {f"layer{layer}.fc1": (4 * dim, dim), f"layer{layer}.fc2": (dim, 4 * dim)}
    return shapes
