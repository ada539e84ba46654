"""Training and validation batches of a tokenized text.

A batch depends only on (seed, iteration), so a resumed run sees the batches that an uninterrupted one would have seen
(decision 0012).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from randygpt.errors import CallerError, InvalidModelFile
from randygpt.model import text_blocks
from randygpt.model.tokenizer import Tokenizer
from randygpt.training.device import copy_to
from randygpt.training.text import Text
from randygpt.training.token_cache import tokenize

_TRAINING_SHARE = 0.9  # of the text; the rest is for validation
_MAX_UNKNOWN = 0.2  # share of the characters that may be dropped without consent
_MIN_EXCLUDED = 0.01  # share of the positions that document boundaries must exclude to matter


def check_vocabulary(
    text: Text | str, tokenizer: Tokenizer, *, drop_unknown: bool, warn: Callable[[str], None]
) -> None:
    """Count the characters of a text that a vocabulary lacks, and report how much of the text is dropped.

    Raises:
        CallerError: More than a fifth of the text would be dropped, without `drop_unknown`.
        InvalidModelFile: The text is not UTF-8.
        OSError: The text cannot be read.
    """
    text = Text.of(text) if isinstance(text, str) else text
    dropped = total = 0
    for block in text_blocks.strip_eos(text) if tokenizer.kind == "bpe" else text:
        dropped += tokenizer.count_unknown(block)
        total += len(block)
    if not dropped:
        return
    reason = f"{dropped:,} of {total:,} characters ({dropped / total:.1%}) are not in the vocabulary"
    if dropped > total * _MAX_UNKNOWN and not drop_unknown:
        raise CallerError(f"{text.source}: {reason}; to train on the rest, pass --drop-unknown")
    warn(f"{text.source}: {reason} and are dropped")


class Corpus:
    """Tokenized text: the first nine tenths are for training, the last tenth is for validation.

    Raises InvalidModelFile if the text is too short for one sequence of each. `warn` receives messages for the user.
    """

    def __init__(
        self,
        text: Text | str,
        tokenizer: Tokenizer,
        block_size: int,
        *,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        text = Text.of(text) if isinstance(text, str) else text
        self._tokens = tokens = tokenize(text, tokenizer, warn)
        count = len(tokens.ids)
        border = int(count * _TRAINING_SHARE)
        if min(border, count - border) <= block_size:
            least = 10 * (block_size + 1)
            advice = "a longer text, or a smaller --block" + (" or --bpe" if tokenizer.kind == "bpe" else "")
            raise InvalidModelFile(
                f"{text.source} has {count} tokens: training and validation need about {least} (use {advice})"
            )
        self.identity = tokens.identity  # 64 hex digits that identify text and vocabulary
        self.sizes = border, count - border  # tokens for training and for validation
        first, second = np.split(tokens.ends, np.searchsorted(tokens.ends, [border]))
        self._train = _Windows(tokens.ids[:border], first, block_size)
        self._validation = _Windows(tokens.ids[border:], second - border, block_size)

    def batch(
        self, *, seed: int, iteration: int, batch_size: int, part: slice = slice(None), device: str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Return the sequences `part` of a random training batch: inputs (B, T) and targets (B, T), one token later."""
        choices = np.random.default_rng([seed, iteration]).integers(0, self._train.count, size=batch_size)
        return self._cut(self._train, choices[part], device)

    def validation(self, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` fixed sequences spread over the validation text: inputs (N, T) and targets (N, T)."""
        choices = np.linspace(0, self._validation.count - 1, num=count).astype(np.int64)
        return self._cut(self._validation, choices, "cpu")

    def _cut(self, windows: "_Windows", choices: npt.NDArray[np.int64], device: str) -> tuple[Tensor, Tensor]:
        both = copy_to(device, torch.from_numpy(windows.cut(choices)))
        self._tokens.release_pages()
        return both[:, :-1], both[:, 1:]


class _Windows:
    """All windows of T + 1 consecutive tokens: T inputs, and the targets one token later.

    A window whose inputs contain the end of a document is excluded, unless that would exclude less than one window in a
    hundred, or all of them.
    """

    def __init__(self, ids: npt.NDArray[np.unsignedinteger[Any]], ends: npt.NDArray[np.int64], block_size: int) -> None:
        self._ids, self._block_size = ids, block_size
        unrestricted = len(ids) - block_size
        borders = np.concatenate([[-1], ends, [len(ids) - 1]])  # the last window needs a target
        counts = np.maximum(np.diff(borders) - block_size, 0)  # windows in each document
        self.count = int(counts.sum())
        self._firsts, self._before = borders[:-1] + 1, np.cumsum(counts) - counts
        if not 0 < self.count <= unrestricted * (1 - _MIN_EXCLUDED):
            self.count = unrestricted
            self._firsts = self._before = np.zeros(1, np.int64)

    def cut(self, choices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the ids (N, T + 1) of windows, numbered from 0 to `count` - 1."""
        document = np.searchsorted(self._before, choices, side="right") - 1
        starts = self._firsts[document] + choices - self._before[document]
        positions = starts[:, None] + np.arange(self._block_size + 1)
        return np.asarray(self._ids[positions], dtype=np.int64)
