"""RGPT header, and what a checkpoint's exact size implies. Parses given bytes: no I/O, no torch.

    magic[8] · vocab u32 · iter u32 · step u32 · best_loss f32 · float32 arrays          (all little-endian)

The arrays are the weights, then in most files the two AdamW moments m and v. `RGPT0003` has all of m, then all of v;
`RGPT0001` interleaves m and v tensor by tensor; `RGPT0002` has none (v0.8.5 and later) or the layout of 0001 (v0.8.0).
"""

import math
import struct
from dataclasses import dataclass
from typing import Literal, Self

from randygpt.errors import InvalidCheckpoint
from randygpt.model.config import MAX_VOCAB, PRESETS, ModelConfig

HEADER_SIZE = 24  # bytes
MAX_COUNT = 2**32 - 1  # of iterations and steps
_MAX_LOSS = 3.4028234663852886e38  # float32
WEIGHTS_MAGIC = b"RGPT0002"  # replaces the magic when the weights of a checkpoint become a file of their own
_HEADER = struct.Struct("<8sIIIf")
_FIELDS = (("magic", 8), ("vocab", 12), ("iter", 16), ("step", 20), ("best_loss", 24))  # (name, end offset)

OptimizerLayout = Literal["none", "interleaved", "contiguous"]
_LAYOUTS: dict[str, tuple[OptimizerLayout, ...]] = {
    "RGPT0001": ("interleaved",),
    "RGPT0002": ("none", "interleaved"),
    "RGPT0003": ("contiguous",),
}
MAGICS = tuple(_LAYOUTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointHeader:
    """First 24 bytes of a checkpoint (randyGPT checkpoint.rs); impossible values raise InvalidCheckpoint."""

    magic: str
    vocab_size: int
    iteration: int  # index of the last completed iteration, from 0
    step: int  # completed optimizer steps
    best_loss: float  # lowest validation loss so far, infinite before the first

    def __post_init__(self) -> None:
        if self.magic not in _LAYOUTS:
            raise InvalidCheckpoint(f"not a randyGPT checkpoint: it starts with {self.magic!r:.100}, not with RGPT…")
        if type(self.vocab_size) is not int or not 1 <= self.vocab_size <= MAX_VOCAB:
            raise InvalidCheckpoint(f"vocab must be from 1 to {MAX_VOCAB}, not {self.vocab_size}")
        for name, count in (("iter", self.iteration), ("step", self.step)):
            if type(count) is not int or not 0 <= count <= MAX_COUNT:
                raise InvalidCheckpoint(f"{name} must be from 0 to {MAX_COUNT}, not {count}")
        if not (abs(self.best_loss) <= _MAX_LOSS or self.best_loss == math.inf):
            raise InvalidCheckpoint(f"best_loss must be a number or infinite, not {self.best_loss}")

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the header at the start of `raw`; raise InvalidCheckpoint, naming the field that is wrong."""
        if len(raw) < HEADER_SIZE:
            field = next(name for name, end in _FIELDS if len(raw) < end)
            raise InvalidCheckpoint(f"truncated header: {len(raw)} bytes end in field {field}")
        raw_magic, vocab_size, iteration, step, best_loss = _HEADER.unpack(raw[:HEADER_SIZE])
        magic = raw_magic.decode("ascii", "backslashreplace")
        return cls(magic=magic, vocab_size=vocab_size, iteration=iteration, step=step, best_loss=best_loss)

    def encode(self) -> bytes:
        """Return the header's 24 bytes."""
        return _HEADER.pack(self.magic.encode(), self.vocab_size, self.iteration, self.step, self.best_loss)

    def optimizer_layout(self, config: ModelConfig, size: int) -> OptimizerLayout:
        """Return the optimizer-state layout of a file of `size` bytes; raise InvalidCheckpoint if the size is wrong."""
        if config.vocab_size != self.vocab_size:
            raise InvalidCheckpoint(f"vocab {self.vocab_size} in the header, {config.vocab_size} in the configuration")
        sizes = {_size(config, layout): layout for layout in _LAYOUTS[self.magic]}
        if size not in sizes:
            expected = " or ".join(str(value) for value in sizes)
            raise InvalidCheckpoint(
                f"{size} bytes, but {self.magic} with shape {config.name} and vocab {self.vocab_size} has {expected}"
            )
        return sizes[size]

    def infer_config(self, size: int) -> ModelConfig:
        """Return the preset that a file of `size` bytes fits; raise InvalidCheckpoint if none or several fit."""
        fits = []
        for preset in PRESETS:
            config = ModelConfig.from_preset(preset, vocab_size=self.vocab_size)
            if any(_size(config, layout) == size for layout in _LAYOUTS[self.magic]):
                fits.append(config)
        if not fits:
            raise InvalidCheckpoint(f"{size} bytes fit no preset with vocab {self.vocab_size} ({self.magic})")
        if len(fits) > 1:
            names = " and ".join(config.preset for config in fits)
            raise InvalidCheckpoint(f"{size} bytes fit the presets {names}: choose one with --preset")
        return fits[0]


def weights_size(config: ModelConfig) -> int:
    """Return the bytes of header and weights, the part that inference needs."""
    return HEADER_SIZE + 4 * config.parameter_count


def segments(config: ModelConfig, size: int) -> list[tuple[str, int]]:
    """Return the (name, bytes) of each segment of a checkpoint of `size` bytes that fits `config`."""
    weights = weights_size(config)
    return [("weights", weights)] + ([("optimizer", size - weights)] if size > weights else [])


def _size(config: ModelConfig, layout: OptimizerLayout) -> int:
    return HEADER_SIZE + (4 if layout == "none" else 12) * config.parameter_count
