"""`randygpt plot`: draw the losses of training runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import Json, Quiet, check_file_path
from randygpt.cli.output import emit, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home

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
    quiet: Quiet = False,
) -> None:
    """Draw losses and learning rate of one or more training runs.

    Several runs are compared in bits per byte, which does not depend on the tokenizer.
    """
    from randygpt.training.plot import FORMATS, draw, is_comparable, read_run, run_name
    from relay_client import durable

    metrics = [_metrics_of(file) for file in files]
    target = out or metrics[0].with_name(f"{run_name(metrics[0])}.png")
    kind = FORMATS.get(target.suffix.lower())
    if not kind:
        raise CallerError(f"{target}: the name must end in .png or .svg (--out)")
    check_file_path(target)
    runs = [read_run(path) for path in metrics]
    if len(runs) > 1 and not is_comparable(runs) and not (quiet or as_json):
        older = next(path for path, run in zip(metrics, runs, strict=True) if not run.bytes_per_token)
        print_stderr(f"{older} has no bits per byte: the losses are per token, which only equal vocabularies share")
    durable.write(target, draw(runs, kind))
    best = [min(run.val_losses, default=None) for run in runs]
    bits = [None if loss is None else run.bits_per_byte(loss) for run, loss in zip(runs, best, strict=True)]
    result = {"picture": str(target), "runs": [str(path) for path in metrics], "best_val_losses": best}
    result["best_bits_per_byte"] = bits
    emit(as_json, result, str(target))


def _metrics_of(file: Path) -> Path:
    """Return the metrics file of a run; raises CallerError for an installed release, which has none."""
    from distribution.resolve import find_installed
    from randygpt.training.plot import metrics_path

    metrics = metrics_path(file if file.name else check_file_path(file))
    if not os.path.exists(metrics):  # noqa: PTH110 (false for text that cannot be a path)
        store, trusted = installed.open_store(Home.from_environment())
        if find_installed(store, trusted, str(file)):
            raise CallerError(f"{file} is an installed release, without metrics of its training: name the run's PREFIX")
    return metrics_path(check_file_path(file))
