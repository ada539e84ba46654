"""Model shapes: the presets of the Rust program, and custom ones. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from randygpt.errors import InvalidModelFile
from relay_client.errors import quote

BLOCK_SIZE = 256  # default context length; RGPT files of the Rust program always have it
MAX_VOCAB = 1 << 20
NORM_EPS = 1e-5
_LIMITS = {"n_embd": 1 << 13, "n_head": 1 << 8, "n_layer": 1 << 8, "block_size": 1 << 12, "vocab_size": MAX_VOCAB}
_FLAGS = {"n_embd": "--dim", "n_head": "--heads", "n_layer": "--layers", "block_size": "--block"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model's shape; an impossible one raises InvalidModelFile."""

    n_embd: int  # width of the residual stream, D
    n_head: int  # H
    n_layer: int  # L
    vocab_size: int  # V
    block_size: int = BLOCK_SIZE  # context length, in tokens

    def __post_init__(self) -> None:
        _check_shape({name: getattr(self, name) for name in _LIMITS}, {})

    @property
    def parameter_count(self) -> int:
        """Number of parameters, P."""
        return (2 * self.vocab_size + self.block_size) * self.n_embd + 12 * self.n_layer * self.n_embd**2

    @property
    def name(self) -> str:
        """The model's name in HTTP replies, for example `randygpt-6L-8H-256D`."""
        return f"randygpt-{self.n_layer}L-{self.n_head}H-{self.n_embd}D"

    @property
    def shape(self) -> str:
        """The shape for messages: its preset, or the values of its flags."""
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
        """Return the contents of a release's config.json; `tokenizer` is `char` or `bpe`."""
        shape = {name: getattr(self, name) for name in _LIMITS}
        return {"preset": self.preset, **shape, "tokenizer": tokenizer}

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Parse a decoded config.json, ignoring `preset` and unknown keys; raise InvalidModelFile if it is wrong."""
        if not isinstance(raw, Mapping):
            raise InvalidModelFile("the model configuration is not a JSON object")
        missing = [name for name in _LIMITS if name not in raw]
        if missing:
            raise InvalidModelFile(f"the model configuration lacks {', '.join(missing)}")
        return cls(**{name: raw[name] for name in _LIMITS})

    @classmethod
    def from_preset(cls, preset: str, *, vocab_size: int, **overrides: int) -> Self:
        """Return a preset's shape with the fields in `overrides` replaced.

        Raises:
            InvalidModelFile: The preset is unknown or the shape impossible; the message names the flag.
        """
        if preset not in PRESETS:
            raise InvalidModelFile(f"unknown preset {quote(preset)}: choose one of {', '.join(PRESETS)}")
        n_embd, n_head, n_layer = PRESETS[preset]
        shape = {"n_embd": n_embd, "n_head": n_head, "n_layer": n_layer, "vocab_size": vocab_size} | overrides
        _check_shape(shape, _FLAGS)
        return cls(**shape)


def _check_shape(shape: Mapping[str, object], labels: Mapping[str, str]) -> None:
    """Raise InvalidModelFile for an impossible shape, calling each field by its label, else by its name."""
    for name, value in shape.items():
        maximum = _LIMITS[name]
        if type(value) is not int or not 1 <= value <= maximum:
            raise InvalidModelFile(
                f"{labels.get(name, name)} must be a whole number from 1 to {maximum}, not {quote(value)}"
            )
    heads, dim = shape["n_head"], shape["n_embd"]
    if dim % heads:  # type: ignore[operator]
        raise InvalidModelFile(
            f"{labels.get('n_head', 'n_head')} {heads} does not divide {labels.get('n_embd', 'n_embd')} {dim}"
        )


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
    """Return a preset's default batch size, in sequences (randyGPT config.rs)."""
    return _BATCH_SIZES.get(preset, DEFAULT_BATCH_SIZE)
