"""`randygpt plot`: training runs as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from randygpt.cli.output import Json, Quiet, check_file_path, emit
from randygpt.errors import CallerError

EXAMPLE = "Example: randygpt plot shakespeare"


def plot(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="PREFIX, PREFIX.bin or PREFIX.metrics.jsonl; several: compare."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .png or .svg; by default PREFIX.png beside the first.")
    ] = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Draw training loss, validation loss and learning rate of a run, or of several in one picture."""
    from randygpt.training.plot import FORMATS, draw, metrics_path, read_run, run_name
    from relay_client import durable

    metrics = [metrics_path(check_file_path(file)) for file in files]
    target = out or metrics[0].with_name(f"{run_name(metrics[0])}.png")
    kind = FORMATS.get(target.suffix.lower())
    if not kind:
        raise CallerError(f"{target}: not a .png or .svg")
    check_file_path(target)
    runs = [read_run(path) for path in metrics]
    durable.write(target, draw(runs, kind))
    best = [min(run.val_losses, default=None) for run in runs]
    result = {"picture": str(target), "runs": [str(path) for path in metrics], "best_val_losses": best}
    emit(as_json, result, str(target))
