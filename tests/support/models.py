"""A model small enough for every test."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import Array, Checkpoint
from randygpt.checkpoint.save import save_checkpoint
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.language_model import LanguageModel
from randygpt.model.config import ModelConfig
from randygpt.model.decoder import Decoder
from randygpt.model.gpt import GPT
from randygpt.model.tokenizer import CharTokenizer
from randygpt.training import iterations, recipe

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 80  # 3,600 characters: enough for a window of each part
TOKENIZER = CharTokenizer.from_text(TEXT)
CONFIG = ModelConfig(n_embd=16, n_head=2, n_layer=2, vocab_size=TOKENIZER.vocab_size)
SHORT = replace(CONFIG, block_size=64)  # trained and evaluated twice as fast


def tiny_checkpoint(*, seed: int = 0, with_optimizer: bool = True) -> Checkpoint:
    """Return a checkpoint of the tiny shape with random weights and random optimizer state."""
    weights = GPT.initialize(CONFIG, seed=seed).flat.numpy()
    first, second = np.random.default_rng(seed).random((2, len(weights)), dtype=np.float32)
    header = CheckpointHeader(
        magic="RGPT0003" if with_optimizer else "RGPT0002",
        vocab_size=CONFIG.vocab_size,
        iteration=seed,
        step=seed + 1,
        best_loss=2.5,
    )
    return Checkpoint(
        header=header, config=CONFIG, weights=weights, optimizer_state=(first, second) if with_optimizer else None
    )


def decoder_of(model: GPT) -> Decoder:
    """Return the decoder of generation and serving, with a network's weights."""
    return Decoder.from_flat(model.config, model.flat.detach().numpy())


def has_weights(decoder: Decoder, weights: Array) -> bool:
    """Return whether a decoder computes the logits of these weights (P,)."""
    ids = range(2, 20)
    return np.array_equal(decoder.logits(ids), Decoder.from_flat(CONFIG, weights).logits(ids))


def evaluate_every(monkeypatch: pytest.MonkeyPatch, interval: int) -> None:
    """Make runs of the classic recipe evaluate every so many iterations instead of 25."""
    changed = {**recipe.RECIPES, recipe.CLASSIC: replace(recipe.RECIPES[recipe.CLASSIC], eval_every=interval)}
    monkeypatch.setattr(iterations, "RECIPES", changed)


def endless() -> LanguageModel:
    """Return a model that never draws the end token at temperature 0."""
    model = GPT(CONFIG, torch.randn(CONFIG.parameter_count, generator=torch.Generator().manual_seed(2)) * 0.3)
    with torch.no_grad():
        model.lm_head[1] = 0
        model.lm_head[3] = -model.lm_head[2]  # one of the two logits is positive
    return LanguageModel(decoder=decoder_of(model), tokenizer=TOKENIZER)


class Gated(Decoder):
    """A network whose decode steps wait until `opened` is set; the first of them sets `entered`."""

    def __init__(self, other: Decoder, opened: threading.Event) -> None:
        self.__dict__.update(other.__dict__)
        self.opened = opened
        self.entered = threading.Event()

    def forward(self, *args: Any, **options: Any) -> Array:  # noqa: ANN401 (passed on)
        self.entered.set()
        self.opened.wait()
        return super().forward(*args, **options)


def write_tiny(path: Path, *, seed: int = 0, name: str = "", with_optimizer: bool = True) -> Path:
    """Write a tiny checkpoint and its sidecar; return its path."""
    sidecar = Sidecar(config=CONFIG, tokenizer=TOKENIZER, name=name, iteration=seed)
    checkpoint = tiny_checkpoint(seed=seed, with_optimizer=with_optimizer)
    save_checkpoint(path, checkpoint, sidecar)
    return path


def side_files() -> dict[str, bytes]:
    """Return config.json and vocab.json of the tiny model, as in a release."""
    return {
        "config.json": json.dumps(CONFIG.to_json("char")).encode(),
        "vocab.json": json.dumps(TOKENIZER.to_json()).encode(),
    }
