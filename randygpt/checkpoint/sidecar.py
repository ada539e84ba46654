"""What stands beside a checkpoint: its shape and tokenizer, and what resuming needs. Reads and writes JSON; no torch.

A checkpoint `X.bin` has `X.json` beside it. In the folder of a fetched release the same facts are in `config.json` and
`vocab.json`. The .bin alone says neither its characters nor, for certain, its shape.
"""

import contextlib
import json
import math
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from randygpt.checkpoint.header import HEADER_SIZE, CheckpointHeader
from randygpt.errors import InvalidModelFile
from randygpt.model.config import DEFAULT_PRESET, ModelConfig
from randygpt.model.tokenizer import Tokenizer, tokenizer_from_json
from relay_client import durable

_MAX_JSON = 64 << 20  # bytes
COUNTS = range(1 << 63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """The JSON beside a checkpoint."""

    config: ModelConfig
    tokenizer: Tokenizer
    name: str = ""  # what to publish it as; empty: nobody said
    iteration: int = 0  # index of the last iteration done
    losses: Mapping[str, float | None] = field(default_factory=dict)  # train, val, best_val
    training: Mapping[str, Any] = field(default_factory=dict)  # what an exact resume needs
    source: str = field(default="the JSON beside the checkpoint", compare=False)

    def training_value(self, name: str, default: Any, allowed: Container[Any] = COUNTS) -> Any:  # noqa: ANN401 (int or str)
        """A whole number or a text of the run that wrote it; raises InvalidModelFile if it is not allowed."""
        value = self.training.get(name, default)
        if type(value) is not type(default) or value not in allowed:
            raise InvalidModelFile(f"{self.source}: {name} is out of range, or not of its type")
        return value

    def matches(self, header: CheckpointHeader) -> bool:
        """Whether it tells of the moment of the checkpoint with this header: the iteration, the best loss if any."""
        best = self.losses.get("best_val", header.best_loss)
        told = math.inf if best is None else best  # float64; the header has float32
        return self.iteration == header.iteration and math.isclose(told, header.best_loss, rel_tol=1e-7)

    def to_json(self) -> dict[str, object]:
        """What is written."""
        return {
            "name": self.name,
            "config": self.config.to_json(self.tokenizer.kind),
            "iteration": self.iteration,
            "losses": self.losses,
            "training": self.training,
            "tokenizer": self.tokenizer.to_json(),
        }

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """What was written; raises InvalidModelFile."""
        if not isinstance(raw, Mapping):
            raise InvalidModelFile("not an object")
        return cls(
            config=ModelConfig.from_json(raw.get("config")),
            tokenizer=tokenizer_from_json(raw.get("tokenizer")),
            name=_typed(raw, "name", str, ""),
            iteration=_count(raw, "iteration"),
            losses=_losses(_typed(raw, "losses", dict, {})),
            training=_typed(raw, "training", dict, {}),
        )

    def encode(self) -> bytes:
        """The file's contents."""
        return json.dumps(self.to_json(), ensure_ascii=False, indent=1).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint file with all that is known about it before its numbers are read."""

    path: Path
    size: int  # bytes
    header: CheckpointHeader
    config: ModelConfig
    tokenizer: Tokenizer | None  # None: not said anywhere
    sidecar: Sidecar | None


def sidecar_path(checkpoint: Path) -> Path:
    """Where the JSON beside a checkpoint is."""
    return checkpoint.with_suffix(".json")


def read_sidecar(checkpoint: Path) -> Sidecar | None:
    """The JSON beside a checkpoint, None if there is none; raises InvalidModelFile, naming it."""
    return _read_sidecar(sidecar_path(checkpoint))


def recover_pending(checkpoint: Path) -> None:
    """Put a JSON that waits for its checkpoint in place if that is there: then another may wait. Raises OSError."""
    place = sidecar_path(checkpoint)
    waiting = durable.pending_path(place)
    if not checkpoint.is_file():
        return
    durable.sync_directory(checkpoint.parent)  # a killed process may have renamed both, and neither be on the disk
    with contextlib.suppress(InvalidModelFile):  # no JSON, or no checkpoint: nothing that belongs together
        if _read_pending(checkpoint, _read_header(checkpoint)):
            waiting.replace(place)
            durable.sync_directory(checkpoint.parent)


def _read_pending(checkpoint: Path, header: CheckpointHeader) -> Sidecar | None:
    """The JSON of a checkpoint that is in place already, where it is not itself; raises InvalidModelFile."""
    sidecar = _read_sidecar(durable.pending_path(sidecar_path(checkpoint)))
    return sidecar if sidecar and sidecar.matches(header) else None


def _read_sidecar(path: Path) -> Sidecar | None:
    if not path.is_file():
        return None
    raw = read_json(path)
    try:
        return replace(Sidecar.from_json(raw), source=str(path))
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{path}: {error}") from None


def inspect_checkpoint(
    checkpoint: Path,
    *,
    preset: str | None = None,
    shape: Mapping[str, int] | None = None,
    vocab: Path | None = None,
) -> CheckpointInfo:
    """What a checkpoint is, from its header and exact size and from what stands beside it.

    The shape comes from the JSON beside it, else config.json in its folder, else `preset` (by default the default) with
    the fields of `shape`, else the size. Raises InvalidModelFile, naming the file, and OSError. Reads 24 bytes of the
    checkpoint.
    """
    header = _read_header(checkpoint)
    size = checkpoint.stat().st_size
    sidecar = _read_pending(checkpoint, header) or read_sidecar(checkpoint)
    try:
        asked = None
        if preset or shape:
            asked = ModelConfig.from_preset(preset or DEFAULT_PRESET, vocab_size=header.vocab_size, **(shape or {}))
        config = _find_config(checkpoint, header, size, sidecar, asked)
        header.optimizer_layout(config, size)
    except InvalidModelFile as error:
        raise type(error)(f"{checkpoint}: {error}") from None
    tokenizer = _find_tokenizer(checkpoint, sidecar, vocab)
    if tokenizer is not None and tokenizer.vocab_size != header.vocab_size:
        entries = f"{tokenizer.vocab_size} entries in {vocab or 'the vocabulary'}"
        raise InvalidModelFile(f"{checkpoint}: vocab {header.vocab_size} in the header, {entries}")
    return CheckpointInfo(
        path=checkpoint, size=size, header=header, config=config, tokenizer=tokenizer, sidecar=sidecar
    )


def _read_header(checkpoint: Path) -> CheckpointHeader:
    with checkpoint.open("rb") as file:
        raw = file.read(HEADER_SIZE)
    try:
        return CheckpointHeader.parse(raw)
    except InvalidModelFile as error:
        raise type(error)(f"{checkpoint}: {error}") from None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint a path means: the file itself, or the only .bin in a folder; raises InvalidModelFile."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.bin"))
    if len(found) != 1:
        raise InvalidModelFile(f"{path}: {len(found)} checkpoints in this folder, name one")
    return found[0]


def read_json(path: Path) -> object:
    """Decoded JSON of a file; raises InvalidModelFile, naming it, and OSError."""
    if path.stat().st_size > _MAX_JSON:
        raise InvalidModelFile(f"{path}: larger than {_MAX_JSON} bytes")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{path}: not JSON: {error}") from None


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a vocab.json; raises InvalidModelFile, naming it, and OSError."""
    try:
        return tokenizer_from_json(read_json(path))
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _find_config(
    checkpoint: Path, header: CheckpointHeader, size: int, sidecar: Sidecar | None, asked: ModelConfig | None
) -> ModelConfig:
    beside = checkpoint.with_name("config.json")
    said = sidecar.config if sidecar else _read_config(beside)
    if said and asked and said.shape != asked.shape:
        raise InvalidModelFile(f"the JSON beside it says {said.shape}, and the command line says {asked.shape}")
    return said or asked or header.infer_config(size)


def _read_config(path: Path) -> ModelConfig | None:
    if not path.is_file():
        return None
    try:
        return ModelConfig.from_json(read_json(path))
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{path.name}: {str(error).removeprefix(f'{path}: ')}") from None


def _find_tokenizer(checkpoint: Path, sidecar: Sidecar | None, vocab: Path | None) -> Tokenizer | None:
    beside = checkpoint.with_name("vocab.json")
    if vocab:
        return read_tokenizer(vocab)
    if sidecar:
        return sidecar.tokenizer
    return read_tokenizer(beside) if beside.is_file() else None


def _typed(raw: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:  # noqa: ANN401 (JSON)
    value = raw.get(key, default)
    if not isinstance(value, kind):
        raise InvalidModelFile(f"{key} is not a {kind.__name__}")
    return value


def _count(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key, 0)
    if type(value) is not int or value not in COUNTS:
        raise InvalidModelFile(f"{key} is not a whole number from 0")
    return value


def _losses(raw: Mapping[str, Any]) -> dict[str, float | None]:
    for name, value in raw.items():
        is_finite = type(value) in {int, float} and abs(value) <= sys.float_info.max
        if value is not None and not is_finite:
            raise InvalidModelFile(f"the loss {name} is neither a finite number nor null")
    return dict(raw)
