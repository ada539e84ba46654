"""Training windows: runs of tokens cut from a text.

Windows depend on (seed, iteration) alone, so a resumed run sees what an unbroken one would have seen.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from randygpt.errors import InvalidModelFile
from randygpt.model.tokenizer import Tokenizer
from randygpt.training.text import Text
from randygpt.training.token_cache import tokenize

_TRAINING_PART = 0.9  # of the text; the rest validates
_WORTH_A_RULE = 0.01  # of the starts


class Corpus:
    """A tokenised text: its first nine tenths train, the last tenth validates.

    Raises InvalidModelFile for a text too short to give one window of each. `warn` gets remarks for the person.
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
        border = int(count * _TRAINING_PART)
        if min(border, count - border) <= block_size:
            least = 10 * (block_size + 1)
            raise InvalidModelFile(f"{text.source}: {count} tokens; about {least} are needed to train and validate")
        self.identity = tokens.identity  # 64 hex digits: the same for the same text and vocabulary only
        first, second = np.split(tokens.ends, np.searchsorted(tokens.ends, [border]))
        self._train = _Windows(tokens.ids[:border], first, block_size)
        self._validation = _Windows(tokens.ids[border:], second - border, block_size)

    def batch(self, *, seed: int, iteration: int, batch_size: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Random training windows: token ids (B, T), and the ids that follow each of them (B, T).

        Of the B windows, only those of `part` are cut.
        """
        choices = np.random.default_rng([seed, iteration]).integers(0, self._train.count, size=batch_size)
        return self._cut(self._train, choices[part])

    def validation(self, count: int) -> tuple[Tensor, Tensor]:
        """The same windows each time, spread over the validation text: ids (N, T), and those that follow (N, T)."""
        choices = np.linspace(0, self._validation.count - 1, num=count).astype(np.int64)
        return self._cut(self._validation, choices)

    def _cut(self, windows: "_Windows", choices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        both = torch.from_numpy(windows.cut(choices))
        self._tokens.release_pages()
        return both[:, :-1], both[:, 1:]


class _Windows:
    """The windows of T inputs, and a target behind each, that a run of tokens holds.

    None has the end of a document among its inputs: nothing is learned across it. If that rule leaves out less than one
    window in a hundred, or every one, there is no rule.
    """

    def __init__(self, ids: npt.NDArray[np.unsignedinteger[Any]], ends: npt.NDArray[np.int64], block_size: int) -> None:
        self._ids, self._block_size = ids, block_size
        everywhere = len(ids) - block_size
        borders = np.concatenate([[-1], ends, [len(ids) - 1]])  # the last: a window has a target behind it
        counts = np.maximum(np.diff(borders) - block_size, 0)  # of windows in each document
        self.count = int(counts.sum())
        self._firsts, self._before = borders[:-1] + 1, np.cumsum(counts) - counts
        if not 0 < self.count <= everywhere * (1 - _WORTH_A_RULE):
            self.count = everywhere
            self._firsts = self._before = np.zeros(1, np.int64)

    def cut(self, choices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Windows by number, from 0 to under `count`: ids (N, T + 1)."""
        document = np.searchsorted(self._before, choices, side="right") - 1
        starts = self._firsts[document] + choices - self._before[document]
        places = starts[:, None] + np.arange(self._block_size + 1)
        return np.asarray(self._ids[places], dtype=np.int64)
