"""Training iterations of a straightforward PyTorch program: `compiled_training.py PRESET VOCABULARY BATCH STEPS`.

The network of `randygpt train`, as one writes it with torch's own modules; `torch.compile`, bf16 by autocast, fused
AdamW and dropout. Prints {"ms_per_iter"}, a median after the first iterations, and {"first_s"}, which compiles.
"""

import json
import statistics
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from randygpt.model.config import NORM_EPS, ModelConfig

WARM_UP = 2  # iterations, with the one that compiles
DROPOUT = 0.1


class Block(nn.Module):
    """Attention and MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Map the residual stream (B, T, D) to (B, T, D)."""
        batch, length, width = x.shape
        qkv = self.qkv(functional.rms_norm(x, (width,), eps=NORM_EPS)).view(batch, length, 3, self.heads, -1)
        query, keys, values = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        hidden = self.up(functional.rms_norm(x, (width,), eps=NORM_EPS)).relu().square()
        added: Tensor = self.dropout(self.down(hidden))
        return x + added


class Network(nn.Module):
    """The network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layer)))
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (B, T, V)."""
        logits: Tensor = self.head(self.blocks(self.tokens(ids) + self.positions.weight[: ids.shape[1]]))
        return logits


def main(preset: str, vocabulary: int, batch: int, steps: int) -> None:
    """Measure and print the figures."""
    torch.manual_seed(0)
    config = ModelConfig.from_preset(preset, vocab_size=vocabulary)
    network = Network(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    compiled = torch.compile(network)
    seconds = []
    for _ in range(WARM_UP + steps):
        ids = torch.randint(vocabulary, (batch, config.block_size + 1))
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            logits = compiled(ids[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"ms_per_iter": statistics.median(seconds[WARM_UP:]) * 1e3, "first_s": seconds[0]}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
