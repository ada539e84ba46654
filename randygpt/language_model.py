"""A trained model as a script uses it: logits, text, tokenizer, configuration. Reads files when loaded."""

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
from randygpt.model.sampling import Sampling, generate, until_stop
from randygpt.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """A model and the tokenizer it was trained with. Safe to use from several threads."""

    decoder: Decoder
    tokenizer: Tokenizer

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.decoder.config

    def logits(self, ids: "torch.Tensor | Sequence[Sequence[int]]") -> "torch.Tensor":
        """Logits (B, T, V), float32, of token ids (B, T), T at most block_size.

        Raises CallerError for ids of another shape or out of the vocabulary.
        """
        import torch  # noqa: PLC0415 (text needs none of it)

        try:
            array = np.asarray(ids)
        except (ValueError, TypeError) as error:
            raise CallerError(f"ids are whole numbers (B, T): {error}") from None
        if array.ndim != 2 or not array.size or array.shape[1] > self.config.block_size:  # noqa: PLR2004 (B, T)
            raise CallerError(f"ids are (B, T) with T up to {self.config.block_size}, not {array.shape}")
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= self.config.vocab_size:
            raise CallerError(f"ids are whole numbers from 0 to {self.config.vocab_size - 1}")
        return torch.from_numpy(np.stack([self.decoder.logits(row) for row in array.tolist()]))

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 256,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: "Sequence[str]" = (),
    ) -> str:
        """A completion, without the prompt and up to a text in `stop`; the same seed gives it again.

        Raises CallerError.
        """
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        return "".join(self.stream(prompt, sampling, stop))

    def stream(self, prompt: str, sampling: Sampling, stop: "Sequence[str]" = ()) -> "Iterator[str]":
        """The same in pieces, as they are drawn."""
        tokens = generate(self.decoder, self.tokenizer.encode(prompt).tolist(), sampling)
        return until_stop((self.tokenizer.decode([token]) for token in tokens), stop)


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
            raise InvalidModelFile(f"{info.path}: no vocabulary beside it (a .json of its name, or vocab.json)")
        return from_weights(info.path, info.config, info.tokenizer)


def from_weights(path: Path, config: ModelConfig, tokenizer: Tokenizer) -> LanguageModel:
    """The model in a checkpoint whose shape and tokenizer are known; raises InvalidCheckpoint and OSError."""
    return LanguageModel(decoder=Decoder(config, read_matrices(path, config)), tokenizer=tokenizer)
