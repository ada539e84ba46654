"""Decoding of 200 tokens with a vocabulary of 2,000: `decoding.py [PRESET]`, by default l. Without torch.

Prints {"tokens_per_s"}.
"""

import json
import sys
import time

import numpy as np

from randygpt.model.config import ModelConfig
from randygpt.model.decoder import Decoder
from randygpt.model.layout import tensor_shapes
from randygpt.model.sampling import Sampling, generate

TOKENS = 200


def main(preset: str = "l") -> None:
    """Measure and print the figures."""
    config = ModelConfig.from_preset(preset, vocab_size=2000)
    count = sum(rows * columns for rows, columns in tensor_shapes(config).values())
    weights = np.random.default_rng(0).standard_normal(count, dtype=np.float32) * np.float32(0.02)
    decoder = Decoder.from_flat(config, weights)
    start = time.perf_counter()
    count = sum(1 for _ in generate(decoder, [5] * 16, Sampling(max_tokens=TOKENS, temperature=0.8, top_p=0.9, seed=1)))
    seconds = time.perf_counter() - start
    if count < TOKENS or "torch" in sys.modules:
        raise RuntimeError("the end token was sampled, or torch was imported: invalid measurement")
    print(json.dumps({"tokens_per_s": count / seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
