"""`randygpt plot`: draw the losses of training runs."""

from pathlib import Path
from typing import Annotated

import typer

from randygpt.cli.flags import Json, Quiet, check_file_path
from randygpt.cli.output import emit
from randygpt.errors import CallerError

EXAMPLE = "Example: randygpt plot shakespeare"


def plot(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="PREFIX, PREFIX.bin or PREFIX.metrics.jsonl; several to compare runs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture to write (.png or .svg); default: PREFIX.png."),
    ] = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Draw losses and learning rate of one or more training runs."""
    from randygpt.training.plot import FORMATS, draw, metrics_path, read_run, run_name
    from relay_client import durable

    metrics = [metrics_path(check_file_path(file)) for file in files]
    target = out or metrics[0].with_name(f"{run_name(metrics[0])}.png")
    kind = FORMATS.get(target.suffix.lower())
    if not kind:
        raise CallerError(f"{target}: the name must end in .png or .svg (--out)")
    check_file_path(target)
    runs = [read_run(path) for path in metrics]
    durable.write(target, draw(runs, kind))
    best = [min(run.val_losses, default=None) for run in runs]
    result = {"picture": str(target), "runs": [str(path) for path in metrics], "best_val_losses": best}
    emit(as_json, result, str(target))
