"""What of a checkpoint goes into a release: its files, its card, its name."""

import io
import json
import math
import os
import re
from typing import TYPE_CHECKING, BinaryIO

from randygpt.errors import CallerError, InvalidCheckpoint, InvalidModelFile

if TYPE_CHECKING:
    from distribution.source import SourceFile
    from randygpt.checkpoint.sidecar import CheckpointInfo

_MAX_HISTORY = 100  # evaluations that a card tells of


def default_name(found: "CheckpointInfo") -> str:
    """What the JSON beside the file calls the model, else the folder's name; raises CallerError."""
    from distribution.manifest import is_name

    if found.sidecar and found.sidecar.name:
        return found.sidecar.name
    folder = found.path.absolute().parent.name
    if not is_name(folder):
        raise CallerError("no name for this model; give one with --name")
    return folder


def sources(file: BinaryIO, found: "CheckpointInfo", *, weights_only: bool) -> "list[SourceFile]":
    """The files of the release; the checkpoint's header and size are those of the descriptor that will be read.

    Of a checkpoint with moments, `weights_only` takes the weights alone, as an RGPT0002 file.
    """
    from distribution.source import SourceFile
    from randygpt.checkpoint.header import HEADER_SIZE, WEIGHTS_MAGIC, CheckpointHeader, segments, weights_size

    if found.tokenizer is None:
        raise InvalidModelFile(f"{found.path}: no vocabulary beside it; name its vocab.json with --vocab")
    length = os.fstat(file.fileno()).st_size
    try:
        CheckpointHeader.parse(file.read(HEADER_SIZE)).optimizer_layout(found.config, length)
    except InvalidCheckpoint as error:
        raise InvalidCheckpoint(f"{found.path}: {error}") from None
    files = [
        SourceFile(
            path=_release_path(found.path.name),
            role="checkpoint",
            file=file,
            segments=tuple(segments(found.config, weights_size(found.config) if weights_only else length)),
            start=WEIGHTS_MAGIC if weights_only else b"",
            is_part=weights_only,
        )
    ]
    for path, role, contents in (
        ("vocab.json", "tokenizer", found.tokenizer.to_json()),
        ("config.json", "config", found.config.to_json(found.tokenizer.kind)),
    ):
        data = json.dumps(contents, ensure_ascii=False, sort_keys=True).encode()
        files.append(SourceFile(path=path, role=role, file=io.BytesIO(data), segments=(("data", len(data)),)))
    return files


def _release_path(name: str) -> str:
    """A local file name as the protocol allows it."""
    stem = re.sub(r"[^a-z0-9._-]", "-", name.lower()).removesuffix(".bin")[-60:].strip("._-")
    return "checkpoint.bin" if stem in {"", "vocab", "config", "release"} else f"{stem}.bin"


def card(found: "CheckpointInfo") -> dict[str, object]:
    """What the release says about itself: shape and training, from the file and the JSON beside it."""
    assert found.tokenizer is not None  # noqa: S101 (checked before)
    facts: dict[str, object] = {"iteration": found.header.iteration, "step": found.header.step}
    if math.isfinite(found.header.best_loss):
        facts["best_loss"] = found.header.best_loss
    if found.sidecar:
        facts |= {f"{name}_loss": value for name, value in found.sidecar.losses.items() if value is not None}
    if history := _history(found):
        facts["history"] = history
    return {"config": found.config.to_json(found.tokenizer.kind), "training": facts}


def _history(found: "CheckpointInfo") -> list[list[float]]:
    """[iteration, training loss, validation loss] of some evaluations up to this checkpoint, if the run left them."""
    from randygpt.training.plot import metrics_path, read_run

    try:
        run = read_run(metrics_path(found.path))
    except (InvalidModelFile, OSError):
        return []
    losses = dict(zip(run.iterations.tolist(), run.losses.tolist(), strict=True))
    evaluated = zip(run.evaluated.tolist(), run.val_losses.tolist(), strict=True)
    points = [
        [int(iteration), round(losses[iteration], 4), round(val_loss, 4)]
        for iteration, val_loss in evaluated
        if iteration <= found.header.iteration and math.isfinite(losses[iteration] + val_loss)
    ]
    step = -(-len(points) // _MAX_HISTORY) or 1
    return points[::-step][::-1]  # the last one is among them
