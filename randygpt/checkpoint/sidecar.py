"""Sidecar: the JSON file of a checkpoint, with its shape, tokenizer and training state. Disk I/O; no torch.

`X.bin` has the sidecar `X.json`. In the folder of a fetched release, the files with the roles of configuration and
tokenizer take its place. The .bin file alone does not contain the vocabulary and does not always determine the shape.
"""

import contextlib
import json
import math
import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from randygpt.checkpoint.header import HEADER_SIZE, CheckpointHeader
from randygpt.checkpoint.merge_record import MergeRecord
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.release_folder import ReleaseFolder, release_of
from randygpt.errors import InvalidModelFile
from randygpt.model.config import DEFAULT_PRESET, ModelConfig
from randygpt.model.tokenizer import Tokenizer, tokenizer_from_json
from relay_client import durable

_MAX_JSON = 64 << 20  # bytes
COUNTS = range(1 << 63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """Contents of a sidecar; values that a reader would refuse raise InvalidModelFile."""

    config: ModelConfig
    tokenizer: Tokenizer
    name: str = ""  # name to publish under; empty: none chosen
    iteration: int = 0  # index of the last completed iteration
    losses: Mapping[str, float | None] = field(default_factory=dict)  # train, val, best_val
    training: Mapping[str, Any] = field(default_factory=dict)  # options and counters for an exact resume
    base: Origin | None = None  # the release that it was trained from; of a merge, what its inputs have in common
    merged: tuple[Origin, ...] = ()  # inputs of a merge
    merge: MergeRecord | None = None  # how they were merged
    source: str = field(default="the sidecar", compare=False)  # file it was read from, for messages

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InvalidModelFile("name is not a string")
        if type(self.iteration) is not int or self.iteration not in COUNTS:
            raise InvalidModelFile("iteration is not a whole number from 0")
        for name in ("losses", "training"):
            if not isinstance(getattr(self, name), Mapping):
                raise InvalidModelFile(f"{name} is not a JSON object")
        try:
            json.dumps([self.name, *map(dict, (self.losses, self.training))], ensure_ascii=False).encode()
        except (ValueError, TypeError, RecursionError):
            raise InvalidModelFile("name, losses or training cannot be written as JSON in UTF-8") from None
        for name, value in self.losses.items():
            is_finite = type(value) in {int, float} and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
            if value is not None and not is_finite:
                raise InvalidModelFile(f"the loss {name:.100} is neither a finite number nor null")
        if self.merged and (self.base is None or len({each.release for each in self.merged}) != len(self.merged)):
            raise InvalidModelFile("a merge needs a base and different inputs")
        if self.merge and len(self.merge.weights) != len(self.merged):
            raise InvalidModelFile("merge is not the record of a merge of these inputs")

    def training_value(self, name: str, default: Any, allowed: Container[Any] = COUNTS) -> Any:  # noqa: ANN401 (int or str)
        """Return an option or counter of the run that saved this; raise InvalidModelFile if it is not allowed."""
        value = self.training.get(name, default)
        if type(value) is not type(default) or value not in allowed:
            raise InvalidModelFile(f"{self.source}: {name} is out of range or of a wrong type")
        return value

    def bits_per_byte(self, loss: float) -> float | None:
        """Return a loss (nats per token) in bits per UTF-8 byte of the validation text; None if that is not known."""
        length = self.training.get("bytes_per_token")  # mean length of a token
        if not isinstance(length, float) or not 0 < length < math.inf:
            return None
        return loss / math.log(2) / length

    def matches(self, header: CheckpointHeader) -> bool:
        """Return whether sidecar and checkpoint were saved together: same iteration, and same best loss if known."""
        best = self.losses.get("best_val", header.best_loss)
        recorded = math.inf if best is None else best  # float64; the header has float32
        return self.iteration == header.iteration and math.isclose(recorded, header.best_loss, rel_tol=1e-7)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of the file."""
        origins: dict[str, object] = {"base": self.base.to_json()} if self.base else {}
        if self.merged:
            origins["merged"] = [each.to_json() for each in self.merged]
        if self.merge:
            origins["merge"] = self.merge.to_json()
        return {
            "name": self.name,
            "config": self.config.to_json(self.tokenizer.kind),
            "iteration": self.iteration,
            "losses": self.losses,
            "training": self.training,
            **origins,
            "tokenizer": self.tokenizer.to_json(),
        }

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Parse a decoded sidecar, ignoring unknown keys; raise InvalidModelFile if it is wrong."""
        if not isinstance(raw, Mapping):
            raise InvalidModelFile("not a JSON object")
        base, merged = raw.get("base"), raw.get("merged", [])
        if not isinstance(merged, list):
            raise InvalidModelFile("merged is not a JSON list")
        return cls(
            config=ModelConfig.from_json(raw.get("config")),
            tokenizer=tokenizer_from_json(raw.get("tokenizer")),
            name=raw.get("name", ""),
            iteration=raw.get("iteration", 0),
            losses=raw.get("losses", {}),
            training=raw.get("training", {}),
            base=None if base is None else Origin.from_json(base),
            merged=tuple(map(Origin.from_json, merged)),
            merge=None if raw.get("merge") is None else MergeRecord.from_json(raw["merge"]),
        )

    def encode(self) -> bytes:
        """Return the contents of the file."""
        return json.dumps(self.to_json(), ensure_ascii=False, indent=1).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint file and all that is known about it without reading its arrays."""

    path: Path
    size: int  # bytes
    header: CheckpointHeader
    config: ModelConfig
    tokenizer: Tokenizer | None  # None: no vocabulary found
    sidecar: Sidecar | None

    def __post_init__(self) -> None:
        self.header.optimizer_layout(self.config, self.size)
        if self.tokenizer is not None and self.tokenizer.vocab_size != self.header.vocab_size:
            raise InvalidModelFile(
                f"vocab {self.header.vocab_size} in the header, {self.tokenizer.vocab_size} entries in the vocabulary"
            )


def sidecar_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's sidecar."""
    return checkpoint.with_suffix(".json")


def read_sidecar(checkpoint: Path) -> Sidecar | None:
    """Return a checkpoint's sidecar, None if it has none; raise InvalidModelFile, naming the file, and OSError."""
    return _read_sidecar(sidecar_path(checkpoint))


def recover_pending(checkpoint: Path) -> None:
    """Finish an interrupted save: move a pending sidecar in place if its checkpoint is. Raise OSError."""
    target = sidecar_path(checkpoint)
    pending = durable.pending_path(target)
    if not checkpoint.is_file():
        return
    durable.sync_directory(checkpoint.parent)  # the killed process may have renamed both without syncing either
    with contextlib.suppress(InvalidModelFile):  # no valid pair to recover
        if _read_pending(checkpoint, _read_header(checkpoint)):
            pending.replace(target)
            durable.sync_directory(checkpoint.parent)


def _read_pending(checkpoint: Path, header: CheckpointHeader) -> Sidecar | None:
    """Return the pending sidecar if its checkpoint is already in place; raise InvalidModelFile."""
    sidecar = _read_sidecar(durable.pending_path(sidecar_path(checkpoint)))
    return sidecar if sidecar and sidecar.matches(header) else None


def _read_sidecar(path: Path) -> Sidecar | None:
    if not path.is_file():
        return None
    raw = read_json(path)
    with _errors_name(path):
        return replace(Sidecar.from_json(raw), source=str(path))


def inspect_checkpoint(
    checkpoint: Path,
    *,
    preset: str | None = None,
    shape: Mapping[str, int] | None = None,
    vocab: Path | None = None,
) -> CheckpointInfo:
    """Inspect a checkpoint: header, size, sidecar and vocabulary.

    In the folder of a fetched release, shape and vocabulary come from the files with these roles in `release.json`.
    Elsewhere, the shape comes from the sidecar, else from config.json in the same folder, else from `preset` and
    `shape`, else from the size. Reads 24 bytes of the checkpoint.

    Args:
        checkpoint: The checkpoint file.
        preset: The preset that the user named; the default one if only `shape` is given.
        shape: Fields of `ModelConfig` that override the preset's.
        vocab: A vocab.json to use instead of the vocabulary next to the checkpoint.

    Raises:
        InvalidModelFile: A file is wrong, or contradicts another or the arguments; the message names it.
        OSError: A file cannot be read.
    """
    header = _read_header(checkpoint)
    size = checkpoint.stat().st_size
    release = release_of(checkpoint)
    sidecar = None if release else _read_pending(checkpoint, header) or read_sidecar(checkpoint)
    config_path = release.config if release else checkpoint.with_name("config.json")
    source = sidecar_path(checkpoint) if sidecar else config_path
    recorded = sidecar.config if sidecar else _read_config(source)
    with _errors_name(checkpoint):
        requested = None
        if preset or shape:
            requested = ModelConfig.from_preset(preset or DEFAULT_PRESET, vocab_size=header.vocab_size, **(shape or {}))
        if recorded and requested and recorded.shape != requested.shape:
            raise InvalidModelFile(f"{source.name} says {recorded.shape}, but the flags say {requested.shape}")
        config = recorded or requested or header.infer_config(size)
        header.optimizer_layout(config, size)
    vocab_path = release.tokenizer if release else checkpoint.with_name("vocab.json")
    tokenizer = _find_tokenizer(vocab_path, sidecar, vocab)
    with _errors_name(checkpoint):
        return CheckpointInfo(
            path=checkpoint, size=size, header=header, config=config, tokenizer=tokenizer, sidecar=sidecar
        )


def _read_header(checkpoint: Path) -> CheckpointHeader:
    with checkpoint.open("rb") as file:
        raw = file.read(HEADER_SIZE)
    with _errors_name(checkpoint):
        return CheckpointHeader.parse(raw)


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Prefix the messages of InvalidModelFile with a file's path."""
    try:
        yield
    except InvalidModelFile as error:
        raise type(error)(f"{path}: {error}") from None


def find_checkpoint(path: Path) -> Path:
    """Return the file that a path names: itself, or the checkpoint of a folder; raise InvalidModelFile and OSError."""
    if not path.is_dir():
        return path
    if release := ReleaseFolder.read(path):
        return release.checkpoint
    found = sorted(path.glob("*.bin"))
    if len(found) != 1:
        raise InvalidModelFile(f"{path} contains {len(found)} checkpoints: name the file")
    return found[0]


def read_json(path: Path, *, max_size: int = _MAX_JSON) -> object:
    """Return the decoded JSON of a file of at most `max_size` bytes; raise InvalidModelFile, naming it, and OSError."""
    if path.stat().st_size > max_size:
        raise InvalidModelFile(f"{path}: larger than {max_size >> 20} MiB")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{path}: not JSON: {error}") from None


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer in a vocab.json; raise InvalidModelFile, naming it, and OSError."""
    raw = read_json(path)
    with _errors_name(path):
        return tokenizer_from_json(raw)


def _read_config(path: Path) -> ModelConfig | None:
    if not path.is_file():
        return None
    raw = read_json(path)
    with _errors_name(path):
        return ModelConfig.from_json(raw)


def _find_tokenizer(in_folder: Path, sidecar: Sidecar | None, vocab: Path | None) -> Tokenizer | None:
    if vocab:
        return read_tokenizer(vocab)
    if sidecar:
        return sidecar.tokenizer
    return read_tokenizer(in_folder) if in_folder.is_file() else None
