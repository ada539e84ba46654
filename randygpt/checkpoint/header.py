"""The RGPT header, and what a checkpoint's exact size says. Parses bytes it is given: no I/O, no torch.

    magic[8] · vocab u32 · iter u32 · step u32 · best_loss f32 · float32 arrays          (all little-endian)

The arrays are the weights, and then in most files the two AdamW moments. `RGPT0003` has all m, then all v; `RGPT0001`
has m and v by turns, tensor by tensor; `RGPT0002` has none (v0.8.5 and later) or is laid out like 0001 (v0.8.0).
"""

import math
import struct
from dataclasses import dataclass
from typing import Literal, Self

from randygpt.errors import InvalidCheckpoint
from randygpt.model.config import MAX_VOCAB, PRESETS, ModelConfig

HEADER_SIZE = 24  # bytes
MAGICS = ("RGPT0001", "RGPT0002", "RGPT0003")
MAX_COUNT = 2**32 - 1  # of iterations and steps
_MAX_LOSS = 3.4028234663852886e38  # float32
WEIGHTS_MAGIC = b"RGPT0002"  # what the weights segment of any checkpoint begins with, to be a checkpoint of its own
_HEADER = struct.Struct("<8sIIIf")
_FIELDS = (("magic", 8), ("vocab", 12), ("iter", 16), ("step", 20), ("best_loss", 24))  # where each ends

OptimizerLayout = Literal["none", "interleaved", "contiguous"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointHeader:
    """The first 24 bytes of a checkpoint (randyGPT checkpoint.rs); one it cannot hold raises InvalidCheckpoint."""

    magic: str
    vocab_size: int
    iteration: int  # index of the last iteration done, from 0
    step: int  # AdamW steps done
    best_loss: float  # lowest validation loss so far, infinite before the first

    def __post_init__(self) -> None:
        if not 1 <= self.vocab_size <= MAX_VOCAB:
            raise InvalidCheckpoint(f"vocab {self.vocab_size} is not from 1 to {MAX_VOCAB}")
        if not (0 <= self.iteration <= MAX_COUNT and 0 <= self.step <= MAX_COUNT):
            raise InvalidCheckpoint(f"iter {self.iteration} or step {self.step} is not from 0 to {MAX_COUNT}")
        if not (abs(self.best_loss) <= _MAX_LOSS or self.best_loss == math.inf):
            raise InvalidCheckpoint(f"best_loss is {self.best_loss}")

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The header at the start of `raw`; raises InvalidCheckpoint, naming the field that is wrong."""
        if len(raw) < HEADER_SIZE:
            field = next(name for name, end in _FIELDS if len(raw) < end)
            raise InvalidCheckpoint(f"truncated in the header: {len(raw)} bytes end in field {field}")
        raw_magic, vocab_size, iteration, step, best_loss = _HEADER.unpack(raw[:HEADER_SIZE])
        magic = raw_magic.decode("ascii", "replace")
        if magic not in MAGICS:
            raise InvalidCheckpoint(f"not a randyGPT checkpoint: it starts with {raw_magic!r}")
        return cls(magic=magic, vocab_size=vocab_size, iteration=iteration, step=step, best_loss=best_loss)

    def encode(self) -> bytes:
        """The header's 24 bytes."""
        return _HEADER.pack(self.magic.encode(), self.vocab_size, self.iteration, self.step, self.best_loss)

    @property
    def _possible_layouts(self) -> tuple[OptimizerLayout, ...]:
        return {"RGPT0001": ("interleaved",), "RGPT0002": ("none", "interleaved"), "RGPT0003": ("contiguous",)}[
            self.magic
        ]  # type: ignore[return-value]

    def optimizer_layout(self, config: ModelConfig, size: int) -> OptimizerLayout:
        """How the moments lie in a file of `size` bytes; raises InvalidCheckpoint if the size does not fit."""
        if config.vocab_size != self.vocab_size:
            raise InvalidCheckpoint(f"vocab {self.vocab_size} in the header, {config.vocab_size} in the configuration")
        sizes = {_size(config, layout): layout for layout in self._possible_layouts}
        if size not in sizes:
            expected = " or ".join(str(value) for value in sizes)
            raise InvalidCheckpoint(
                f"{size} bytes, but {self.magic} with shape {config.name} and vocab {self.vocab_size} has {expected}"
            )
        return sizes[size]

    def infer_config(self, size: int) -> ModelConfig:
        """The one preset that a file of `size` bytes fits; raises InvalidCheckpoint if there is none, or several."""
        fits = []
        for preset in PRESETS:
            config = ModelConfig.from_preset(preset, vocab_size=self.vocab_size)
            if any(_size(config, layout) == size for layout in self._possible_layouts):
                fits.append(config)
        if not fits:
            raise InvalidCheckpoint(f"{size} bytes fit no preset with vocab {self.vocab_size} ({self.magic})")
        if len(fits) > 1:
            names = " and ".join(config.preset for config in fits)
            raise InvalidCheckpoint(f"{size} bytes fit the presets {names}: say which with --preset")
        return fits[0]


def weights_size(config: ModelConfig) -> int:
    """Bytes of header and weights: the part that inference needs."""
    return HEADER_SIZE + 4 * config.parameter_count


def segments(config: ModelConfig, size: int) -> list[tuple[str, int]]:
    """(name, length in bytes) of the stretches of a checkpoint of `size` bytes that fits `config`."""
    weights = weights_size(config)
    return [("weights", weights)] + ([("optimizer", size - weights)] if size > weights else [])


def _size(config: ModelConfig, layout: OptimizerLayout) -> int:
    return HEADER_SIZE + (4 if layout == "none" else 12) * config.parameter_count
