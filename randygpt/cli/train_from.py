"""The model that `randygpt train --from` starts from, and the release that it is. Network and disk I/O."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from randygpt.cli.flags import is_flag_given
from randygpt.cli.obtain import obtain
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


def find_start(which: str, context: typer.Context, *, shown: bool) -> StartModel:
    """Return the model that `--from` names; fetch its weights if it is not installed, and show progress if `shown`.

    Raises:
        CallerError: Nothing matches, or a flag contradicts `--from`.
        InvalidModelFile: The checkpoint is wrong.
        PeerError, TransportError, StorageError: As `fetch`.
    """
    from randygpt.lineage import find_origin
    from randygpt.origins import origin_of

    for flag in ("resume", "fine_tune"):
        if is_flag_given(context, flag):
            raise CallerError(f"--from and --{flag.replace('_', '-')} exclude each other: --from starts a new run")
    for flag, part in _KEPT.items():
        if is_flag_given(context, flag):
            raise CallerError(f"--from keeps the {part} of {which}: leave out --{flag}")
    home = Home.from_environment()
    model = obtain(home, which, None, shown=shown)
    if model.release:
        return StartModel(found=model.info, title=model.release.title, base=origin_of(model.release))
    return StartModel(found=model.info, title=str(model.info.path), base=find_origin(home, model.info))
