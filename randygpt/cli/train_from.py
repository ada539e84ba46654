"""The model that `randygpt train --from` starts from, and the release that it is. Reads files."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from randygpt.cli.flags import is_flag_given
from randygpt.cli.models import find_model
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from randygpt.checkpoint.origin import Origin
    from randygpt.checkpoint.sidecar import CheckpointInfo

_KEPT = {"preset": "shape", "dim": "shape", "heads": "shape", "layers": "shape", "block": "shape"} | {
    "bpe": "vocabulary",
    "vocab": "vocabulary",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StartModel:
    """A model to start from."""

    found: "CheckpointInfo"
    title: str
    base: "Origin | None"  # the release that it is, or the nearest one that it was made from


def find_start(which: str, context: typer.Context) -> StartModel:
    """Return the model that `--from` names.

    Raises:
        CallerError: Nothing matches, or a flag contradicts `--from`.
        InvalidModelFile: The checkpoint is wrong.
        StorageError: The store is damaged.
    """
    from randygpt.checkpoint.sidecar import inspect_checkpoint

    for flag in ("resume", "fine_tune"):
        if is_flag_given(context, flag):
            raise CallerError(f"--from and --{flag.replace('_', '-')} exclude each other: --from starts a new run")
    for flag, part in _KEPT.items():
        if is_flag_given(context, flag):
            raise CallerError(f"--from keeps the {part} of {which}: leave out --{flag}")
    model = find_model(which)
    found = inspect_checkpoint(model.path)
    if model.release:
        from randygpt.origins import origin_of

        return StartModel(found=found, title=model.release.title, base=origin_of(model.release))
    from randygpt.lineage import find_origin

    return StartModel(found=found, title=str(model.path), base=find_origin(Home.from_environment(), found))
