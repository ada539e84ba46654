"""A model small enough for every test."""

import json
from pathlib import Path

import torch

from randygpt.checkpoint import Checkpoint, write_checkpoint
from randygpt.config import ModelConfig
from randygpt.header import CheckpointHeader
from randygpt.model import GPT
from randygpt.sidecar import Sidecar, sidecar_path
from randygpt.tokenizer import CharTokenizer

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 80  # 3,600 characters: enough for a window of each part
TOKENIZER = CharTokenizer.from_text(TEXT)
CONFIG = ModelConfig(n_embd=16, n_head=2, n_layer=2, vocab_size=TOKENIZER.vocab_size)


def tiny_checkpoint(*, seed: int = 0, with_moments: bool = True) -> Checkpoint:
    """Random weights of the tiny shape; moments are random too, to be told apart."""
    weights = GPT.initialise(CONFIG, seed=seed).flat
    generator = torch.Generator().manual_seed(seed)
    moments = (torch.rand(len(weights), generator=generator), torch.rand(len(weights), generator=generator))
    header = CheckpointHeader(
        magic="RGPT0003" if with_moments else "RGPT0002",
        vocab_size=CONFIG.vocab_size,
        iteration=seed,
        step=seed + 1,
        best_loss=2.5,
    )
    return Checkpoint(header=header, config=CONFIG, weights=weights, moments=moments if with_moments else None)


def write_tiny(path: Path, *, seed: int = 0, name: str = "", with_moments: bool = True) -> Path:
    """A tiny checkpoint with its JSON beside it."""
    write_checkpoint(path, tiny_checkpoint(seed=seed, with_moments=with_moments))
    Sidecar(config=CONFIG, tokenizer=TOKENIZER, name=name, iteration=seed).write(sidecar_path(path))
    return path


def side_files() -> dict[str, bytes]:
    """config.json and vocab.json of the tiny model, as a release carries them."""
    return {
        "config.json": json.dumps(CONFIG.to_json("char")).encode(),
        "vocab.json": json.dumps(TOKENIZER.to_json()).encode(),
    }
