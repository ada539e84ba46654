"""Compile the network for training, and compare its gradients with those of the network as it is.

In a process of its own: torch cannot compile where `second_device` is known. `aot_eager` needs no C++ compiler.
"""

import sys

import torch

from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT

SHAPE = ModelConfig(n_embd=16, n_head=2, n_layer=2, vocab_size=30, block_size=32)


def main() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = GPT.initialize(SHAPE, seed=0)
        model.set_training_dtype(dtype)
        ids = torch.arange(20).repeat(2, 1)
        expected = torch.autograd.grad(model(ids).square().mean(), model.wte)[0]
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        found = torch.autograd.grad(compiled(ids).square().mean(), model.wte)[0]
        torch.testing.assert_close(found, expected)
        sys.stdout.write(f"{dtype}\n")


if __name__ == "__main__":
    main()
