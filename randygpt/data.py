"""Training text: where it comes from, and the windows cut from it. Reads files.

Windows depend on (seed, iteration) alone, so a resumed run sees what an unbroken one would have seen.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from randygpt.errors import InvalidModelFile
from randygpt.tokenizer import Tokenizer

DEFAULT_TEXT = Path("train.txt")
_TRAINING_PART = 0.9  # of the text; the rest validates


def read_text(path: Path | None) -> tuple[str, str]:
    """(text, where it is from): a file, else `train.txt` if it is there, else the prose that comes with Python.

    Raises InvalidModelFile, naming the file, if it is not UTF-8 text, and OSError.
    """
    if path is None and not DEFAULT_TEXT.is_file():
        from pydoc_data.topics import topics  # noqa: PLC0415 (half a megabyte)

        return "\n\n".join(topics.values()), "the Python manual (built in)"
    path = path or DEFAULT_TEXT
    try:
        return path.read_bytes().decode(), str(path)
    except UnicodeDecodeError as error:
        raise InvalidModelFile(f"{path}: not UTF-8 text: byte {error.start}") from None


class Corpus:
    """A tokenised text: its first nine tenths train, the last tenth validates.

    Raises InvalidModelFile for a text too short to give one window of each.
    """

    def __init__(self, text: str, tokenizer: Tokenizer, block_size: int) -> None:
        tokens = tokenizer.encode(text).astype(np.int32, copy=False)
        border = int(len(tokens) * _TRAINING_PART)
        self._block_size = block_size
        self._train, self._validation = tokens[:border], tokens[border:]
        if min(len(self._train), len(self._validation)) <= block_size:
            least = 10 * (block_size + 1)
            raise InvalidModelFile(f"the text has {len(tokens)} tokens; about {least} are needed to train and validate")

    def batch(self, *, seed: int, iteration: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Random training windows: token ids (B, T), and the ids that follow each of them (B, T)."""
        starts = np.random.default_rng([seed, iteration]).integers(
            0, len(self._train) - self._block_size, size=batch_size
        )
        return self._windows(self._train, starts)

    def validation(self, count: int) -> tuple[Tensor, Tensor]:
        """The same windows each time, spread over the validation text: ids (N, T), and those that follow (N, T)."""
        last = len(self._validation) - self._block_size - 1
        return self._windows(self._validation, np.linspace(0, last, num=count).astype(np.int64))

    def _windows(self, tokens: npt.NDArray[np.int32], starts: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        windows = torch.from_numpy(tokens[starts[:, None] + np.arange(self._block_size + 1)].astype(np.int64))
        return windows[:, :-1], windows[:, 1:]
