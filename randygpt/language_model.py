"""Python API of a trained model: logits, text, evaluation, tokenizer and shape. Reads files in `load`."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from randygpt.checkpoint.rgpt import read_matrices
from randygpt.checkpoint.sidecar import find_checkpoint, inspect_checkpoint
from randygpt.errors import CallerError, InvalidModelFile, translate_os_errors
from randygpt.model.config import ModelConfig
from randygpt.model.decoder import Decoder
from randygpt.model.evaluation import Evaluation, evaluate
from randygpt.model.sampling import Sampling, generate, until_stop
from randygpt.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """Trained model with its tokenizer. Safe to use from several threads."""

    decoder: Decoder
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        if self.decoder.config.vocab_size != self.tokenizer.vocab_size:
            raise InvalidModelFile(
                f"the model has {self.decoder.config.vocab_size} tokens, the vocabulary {self.tokenizer.vocab_size}"
            )

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.decoder.config

    def logits(self, ids: "torch.Tensor | Sequence[Sequence[int]]") -> "torch.Tensor":
        """Return the logits (B, T, V), float32, of token ids (B, T).

        Raises:
            CallerError: T exceeds `config.block_size`, or an id is not in the vocabulary.
        """
        import torch  # noqa: PLC0415 (generating text does not need it)

        try:
            array = np.asarray(ids)
        except (ValueError, TypeError) as error:
            raise CallerError(f"ids must be whole numbers of shape (B, T): {error}") from None
        if array.ndim != 2 or not array.size or array.shape[1] > self.config.block_size:  # noqa: PLR2004 (B, T)
            raise CallerError(f"ids must have shape (B, T) with T at most {self.config.block_size}, not {array.shape}")
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= self.config.vocab_size:
            raise CallerError(f"ids must be whole numbers from 0 to {self.config.vocab_size - 1}")
        return torch.from_numpy(np.stack([self.decoder.logits(row) for row in array.tolist()]))

    def generate(  # noqa: PLR0913 (one argument per sampling parameter)
        self,
        prompt: str,
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: "Sequence[str]" = (),
    ) -> str:
        """Return text that continues a prompt.

        Args:
            prompt: The text to continue; characters that the vocabulary lacks are dropped.
            max_tokens: Tokens to generate at most.
            temperature: From 0 (greedy) to 100.
            top_p: Sample from the likeliest tokens that together have this probability, above 0 and at most 1.
            top_k: Sample from this many of the likeliest tokens; 0 for all.
            min_p: Sample from tokens with at least this share of the likeliest one's probability; 0 for all.
            repeat_penalty: Makes tokens of the last 64, the prompt's included, less likely: positive logits are divided
                by it, others multiplied. Above 0 and at most 10; 1 for none.
            seed: Equal seeds give equal text; None for a random one.
            stop: Strings that end the text, which are not part of it.

        Raises:
            CallerError: A value is out of range.
        """
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
        )
        return "".join(self.stream(prompt, sampling, stop))

    def stream(self, prompt: str, sampling: Sampling, stop: "Sequence[str]" = ()) -> "Iterator[str]":
        """Yield the text that continues a prompt, in pieces as they are generated; raise CallerError."""
        tokens = generate(self.decoder, self.tokenizer.encode(prompt).tolist(), sampling, self.tokenizer.end_ids)
        return until_stop((self.tokenizer.decode([token]) for token in tokens), stop)

    def evaluate(self, text: "Iterable[str]", *, on_progress: "Callable[[int], None]" = lambda _: None) -> Evaluation:
        """Return loss, perplexity and bits per byte on a text; `bits_per_byte` compares any two models.

        Args:
            text: The text, whole or in blocks. It is cut into the same windows for every model.
            on_progress: Called with the bytes evaluated so far.

        Raises:
            CallerError: The text is empty, or has no character of the vocabulary.
            InvalidModelFile: The loss is not finite.
        """
        return evaluate(self.decoder, self.tokenizer, text, on_progress)


def load(path: str | PathLike[str], *, preset: str | None = None, vocab: Path | None = None) -> LanguageModel:
    """Return the model in a checkpoint file, or in the folder of a fetched release.

    Args:
        path: The checkpoint (RGPT0001 to RGPT0003), or a folder that has one.
        preset: The shape, if neither the checkpoint nor a file next to it tells it.
        vocab: The `vocab.json`, if it is not next to the checkpoint.

    Raises:
        CallerError: nothing is there, or a file is wrong (InvalidCheckpoint, InvalidModelFile).
        StorageError: the disk fails.
    """
    with translate_os_errors():
        info = inspect_checkpoint(find_checkpoint(Path(path)), preset=preset, vocab=vocab)
        if info.tokenizer is None:
            raise InvalidModelFile(f"{info.path} has no vocabulary: put vocab.json or its sidecar .json next to it")
        return from_weights(info.path, info.config, info.tokenizer)


def from_weights(path: Path, config: ModelConfig, tokenizer: Tokenizer) -> LanguageModel:
    """Return the model in a checkpoint of known shape and tokenizer; raise InvalidCheckpoint and OSError."""
    return LanguageModel(decoder=Decoder(config, read_matrices(path, config)), tokenizer=tokenizer)
