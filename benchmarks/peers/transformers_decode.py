"""Tokens per second of transformers' `generate` in this process: `transformers_decode.py FOLDER SEQUENCES TOKENS`.

The sampling is that of `scripts/decoding.py`. Prints {"tokens_per_s"}.
"""

import json
import sys
import time
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel
from transformers.utils.logging import disable_progress_bar

PROMPT = 16  # tokens


def main(folder: Path, sequences: int, tokens: int) -> None:
    """Measure and print the figures."""
    disable_progress_bar()
    torch.manual_seed(0)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    generate(model, sequences, 8)
    start = time.perf_counter()
    generate(model, sequences, tokens)
    print(json.dumps({"tokens_per_s": sequences * tokens / (time.perf_counter() - start)}))


def generate(model: GPT2LMHeadModel, sequences: int, tokens: int) -> None:
    """Generate tokens in all sequences."""
    prompts = torch.full((sequences, PROMPT), 5)
    found = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=True,
        temperature=0.8,
        top_k=0,
        top_p=0.9,
        pad_token_id=0,
    )
    if found.shape[1] != PROMPT + tokens:
        raise RuntimeError(f"{found.shape[1] - PROMPT} tokens instead of {tokens}: invalid measurement")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:4]))
