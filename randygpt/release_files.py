"""Release of a checkpoint: its files, its card and its name. Reads the run's metrics file."""

import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from distribution.manifest import is_name
from distribution.release_spec import ReleaseSpec
from distribution.source import SourceFile
from randygpt.checkpoint.header import HEADER_SIZE, WEIGHTS_MAGIC, CheckpointHeader, segments, weights_size
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.sidecar import CheckpointInfo
from randygpt.errors import CallerError, InvalidCheckpoint, InvalidModelFile
from randygpt.origins import lineage_of
from randygpt.release_tags import parse_topics, release_tags
from randygpt.training.plot import metrics_path, read_run
from relay_client.errors import quote

_MAX_HISTORY = 100  # evaluations in a card
_MAX_STEM = 60  # characters of a file's name


def checkpoint_spec(  # noqa: PLR0913 (options by keyword)
    file: BinaryIO,
    info: CheckpointInfo,
    *,
    name: str | None = None,
    card: Mapping[str, object] | None = None,
    topics: Sequence[str] = (),
    base: Origin | None = None,
    weights_only: bool = False,
    without_validation: bool = False,
    new_version: bool = False,
    expires_in_s: int | None = None,
) -> ReleaseSpec:
    """Return the release that a checkpoint makes.

    Args:
        file: The open checkpoint. Its header and size count, not those of `info`: it may have been replaced since.
        info: Shape and vocabulary of the checkpoint.
        name: By default the name in the JSON file of the checkpoint.
        card: Additional metadata of the model; it overrides that from the files.
        topics: Topics under which others can find it, in addition to those that every release has.
        base: The release of another author that the file is; by default what its JSON file says that it was made from.
        weights_only: Leave the optimizer state out. The checkpoint in the release is then an RGPT0002 file.
        without_validation: Accept a checkpoint that was never evaluated.
        new_version: Publish the same files again, under a new version.
        expires_in_s: Seconds after which relays may delete it (NIP-40).

    Raises:
        CallerError: the name, the card or a topic cannot be that of a release, or the checkpoint was never evaluated.
        InvalidModelFile: the checkpoint has no vocabulary.
        InvalidCheckpoint: header or size do not fit the shape.
    """
    if not without_validation and not is_validated(info):
        raise CallerError(
            f"{info.path} has no validation loss: train until the first evaluation, or pass --without-validation"
        )
    name, card = name or _default_name(info), {**_card(info), **(card or {})}
    return ReleaseSpec(
        files=_files(file, info, weights_only=weights_only),
        name=name,
        format=WEIGHTS_MAGIC.decode() if weights_only else info.header.magic,
        card=card,
        tags=(*release_tags(name, card, parse_topics(topics)), *lineage_of(info.sidecar, base).tags),
        new_version=new_version,
        expires_in_s=expires_in_s,
    )


def is_validated(info: CheckpointInfo) -> bool:
    """Return whether a validation loss of this run is known; a merge needs none."""
    return math.isfinite(info.header.best_loss) or bool(info.sidecar and info.sidecar.merge)


def _default_name(info: CheckpointInfo) -> str:
    name = info.sidecar.name if info.sidecar else ""
    if not name:
        raise CallerError(f"{info.path} has no name to publish under: pass --name")
    if not is_name(name):
        raise CallerError(f"{quote(name)} cannot name a model (a-z, 0-9, dot, dash, underscore): pass --name")
    return name


def _files(file: BinaryIO, info: CheckpointInfo, *, weights_only: bool) -> tuple[SourceFile, ...]:
    """Return the files of a release: the checkpoint, `vocab.json` and `config.json`."""
    if info.tokenizer is None:
        raise InvalidModelFile(f"{info.path}: no vocabulary next to it; pass its vocab.json with --vocab")
    length = os.fstat(file.fileno()).st_size
    try:
        CheckpointHeader.parse(file.read(HEADER_SIZE)).optimizer_layout(info.config, length)
    except InvalidCheckpoint as error:
        raise InvalidCheckpoint(f"{info.path}: {error}") from None
    checkpoint = SourceFile(
        path=_release_path(info.path.name),
        role="checkpoint",
        file=file,
        segments=tuple(segments(info.config, weights_size(info.config) if weights_only else length)),
        start=WEIGHTS_MAGIC if weights_only else b"",
        is_part=weights_only,
    )
    return (
        checkpoint,
        _json_file("vocab.json", "tokenizer", info.tokenizer.to_json()),
        _json_file("config.json", "config", info.config.to_json(info.tokenizer.kind)),
    )


def _json_file(path: str, role: str, content: object) -> SourceFile:
    data = json.dumps(content, ensure_ascii=False, sort_keys=True).encode()
    return SourceFile(path=path, role=role, file=io.BytesIO(data), segments=(("data", len(data)),))


def _release_path(name: str) -> str:
    """Return a local file name as the protocol allows it."""
    stem = re.sub(r"[^a-z0-9._-]", "-", name.lower()).removesuffix(".bin")[-_MAX_STEM:].strip("._-")
    return "checkpoint.bin" if stem in {"", "vocab", "config", "release"} else f"{stem}.bin"


def _card(info: CheckpointInfo) -> dict[str, object]:
    """Return the model card: shape and training metrics."""
    assert info.tokenizer is not None  # noqa: S101 (_files refuses a checkpoint without one)
    training: dict[str, object] = {"iteration": info.header.iteration, "step": info.header.step}
    if math.isfinite(info.header.best_loss):
        training["best_loss"] = info.header.best_loss
    if info.sidecar:
        losses = {name: value for name, value in info.sidecar.losses.items() if value is not None}
        training |= {f"{name}_loss": value for name, value in losses.items()}
        if "val" in losses and (bits := info.sidecar.bits_per_byte(losses["val"])) is not None:
            training["bits_per_byte"] = round(bits, 6)
    if history := _history(info):
        training["history"] = history
    card: dict[str, object] = {"config": info.config.to_json(info.tokenizer.kind), "training": training}
    if info.sidecar and info.sidecar.merge:
        card["merge"] = info.sidecar.merge.to_json()
    return card


def _history(info: CheckpointInfo) -> list[list[float]]:
    """Return `[iteration, training loss, validation loss]` of some evaluations up to this checkpoint, oldest first."""
    try:
        run = read_run(metrics_path(info.path))
    except (InvalidModelFile, OSError):
        return []
    losses = dict(zip(run.iterations.tolist(), run.losses.tolist(), strict=True))
    evaluated = zip(run.evaluated.tolist(), run.val_losses.tolist(), strict=True)
    points = [
        [int(iteration), round(losses[iteration], 4), round(val_loss, 4)]
        for iteration, val_loss in evaluated
        if iteration <= info.header.iteration and math.isfinite(losses[iteration] + val_loss)
    ]
    step = -(-len(points) // _MAX_HISTORY) or 1
    return points[::-step][::-1]  # the last one is among them
