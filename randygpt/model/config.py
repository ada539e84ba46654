"""Shapes of models: the presets of the Rust program, and any other. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from randygpt.errors import InvalidModelFile

BLOCK_SIZE = 256  # positions; RGPT files of the Rust program know no other
MAX_VOCAB = 1 << 20
NORM_EPS = 1e-5
_LIMITS = {"n_embd": 1 << 13, "n_head": 1 << 8, "n_layer": 1 << 8, "block_size": 1 << 12, "vocab_size": MAX_VOCAB}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model's shape; making an impossible one raises InvalidModelFile."""

    n_embd: int  # width of the residual stream, D
    n_head: int
    n_layer: int
    vocab_size: int  # V
    block_size: int = BLOCK_SIZE  # positions the model knows, T at most

    def __post_init__(self) -> None:
        for name, maximum in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= maximum:
                raise InvalidModelFile(f"{name} is not a whole number from 1 to {maximum}: {value!r}")
        if self.n_embd % self.n_head:
            raise InvalidModelFile(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")

    @property
    def parameter_count(self) -> int:
        """How many numbers the weights are."""
        return (2 * self.vocab_size + self.block_size) * self.n_embd + 12 * self.n_layer * self.n_embd**2

    @property
    def name(self) -> str:
        """The model's name in HTTP replies, like `randygpt-6L-8H-256D`."""
        return f"randygpt-{self.n_layer}L-{self.n_head}H-{self.n_embd}D"

    @property
    def shape(self) -> str:
        """The shape in words: preset xs, or its four numbers."""
        if self.preset != "custom":
            return f"preset {self.preset}"
        return f"dim {self.n_embd}, heads {self.n_head}, layers {self.n_layer}, block {self.block_size}"

    @property
    def preset(self) -> str:
        """The preset with this shape, else `custom`."""
        shape = (self.n_embd, self.n_head, self.n_layer, self.block_size)
        names = (name for name, preset in PRESETS.items() if (*preset, BLOCK_SIZE) == shape)
        return next(names, "custom")

    def to_json(self, tokenizer: str) -> dict[str, object]:
        """The contents of a release's config.json; `tokenizer` is `char` or `bpe`."""
        shape = {name: getattr(self, name) for name in _LIMITS}
        return {"preset": self.preset, **shape, "tokenizer": tokenizer}

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """The shape in a decoded config.json; raises InvalidModelFile. `preset` and unknown keys are not read."""
        if not isinstance(raw, Mapping):
            raise InvalidModelFile("the model's configuration is not an object")
        missing = [name for name in _LIMITS if name not in raw]
        if missing:
            raise InvalidModelFile(f"the model's configuration lacks {', '.join(missing)}")
        return cls(**{name: raw[name] for name in _LIMITS})

    @classmethod
    def from_preset(cls, preset: str, *, vocab_size: int, **other: int) -> Self:
        """A preset's shape with a vocabulary, and `other` fields; raises InvalidModelFile for an unknown name."""
        if preset not in PRESETS:
            raise InvalidModelFile(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        n_embd, n_head, n_layer = PRESETS[preset]
        shape = {"n_embd": n_embd, "n_head": n_head, "n_layer": n_layer, "vocab_size": vocab_size} | other
        return cls(**shape)


# n_embd, n_head, n_layer (randyGPT config.rs)
PRESETS: dict[str, tuple[int, int, int]] = {
    "xs": (116, 4, 3),
    "s": (128, 4, 8),
    "ds": (128, 4, 12),
    "m": (192, 6, 6),
    "l": (256, 8, 6),
    "deep": (192, 6, 16),
    "xl": (384, 8, 8),
}
DEFAULT_PRESET = "l"
_BATCH_SIZES = {"deep": 16}
DEFAULT_BATCH_SIZE = 64


def default_batch_size(preset: str) -> int:
    """Windows in a training step, where the user does not say."""
    return _BATCH_SIZES.get(preset, DEFAULT_BATCH_SIZE)
