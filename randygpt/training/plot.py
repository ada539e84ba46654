"""Pictures of training runs: losses and learning rate by iteration. Reads metrics files; no torch.

matplotlib, which draws them, is an extra: nothing else here needs it.
"""

import io
import json
import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from randygpt.checkpoint.sidecar import read_sidecar
from randygpt.errors import CallerError, InvalidModelFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
Format = Literal["png", "svg"]
FORMATS: dict[str, Format] = {".png": "png", ".svg": "svg"}  # by suffix

_SUFFIX = ".metrics.jsonl"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
_BEST = "#D55E00"
_LARGE = 99  # a loss whose perplexity nobody wants to read
_POINTS = 400  # of a line of training losses: a longer one is averaged
_DPI = 160
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "text.parse_math": False,  # a $ in a name is a $
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "randygpt",  # the same picture is the same file
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a metrics file says; each array has one number an iteration, or one an evaluation."""

    name: str
    shape: str  # empty: nothing says
    iterations: Array
    losses: Array
    learning_rates: Array
    evaluated: Array  # iterations with a validation loss
    val_losses: Array

    @property
    def title(self) -> str:
        """Name, and shape where it is known."""
        return f"{self.name} ({self.shape})" if self.shape else self.name


def metrics_path(path: Path) -> Path:
    """The metrics of a PREFIX, of PREFIX.bin or PREFIX_best.bin, or the metrics file itself."""
    if path.name.endswith(_SUFFIX):
        return path
    stem = path.name.removesuffix(".bin")
    beside = path.with_name(f"{stem}{_SUFFIX}")
    if stem.endswith("_best") and not beside.is_file():
        return path.with_name(f"{stem.removesuffix('_best')}{_SUFFIX}")
    return beside


def run_name(metrics: Path) -> str:
    """The PREFIX that a metrics file belongs to, without its folder."""
    return metrics.name.removesuffix(_SUFFIX)


def read_run(path: Path) -> Run:
    """The run in a metrics file; lines that are damaged are skipped.

    Raises InvalidModelFile, naming the file, if no line is left, and OSError.
    """
    by_iteration = {}
    with path.open("rb") as file:
        for line in file:
            values = _numbers(line)
            if values:
                by_iteration[values["iter"]] = values
    if not by_iteration:
        raise InvalidModelFile(f"{path}: no line of it has an iteration with its loss")
    rows = [by_iteration[iteration] for iteration in sorted(by_iteration)]
    measured = [row for row in rows if "val_loss" in row]
    name = run_name(path)
    sidecar = read_sidecar(path.with_name(f"{name}.bin"))
    return Run(
        name=(sidecar and sidecar.name) or name,
        shape=sidecar.config.name if sidecar else "",
        iterations=_column(rows, "iter"),
        losses=_column(rows, "loss"),
        learning_rates=_column(rows, "lr"),
        evaluated=_column(measured, "iter"),
        val_losses=_column(measured, "val_loss"),
    )


def draw(runs: Sequence[Run], kind: Format) -> bytes:
    """A picture of one run, or of several to compare; raises CallerError if matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 (an extra)
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise CallerError("drawing needs matplotlib: pip install 'randygpt[plot]'") from None
    picture = io.BytesIO()
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in letters that the font lacks is drawn as boxes
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(9, 6), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        _label(losses, rates, runs)
        for index, run in enumerate(runs):
            _draw_run(losses, rates, run, _COLOURS[index % len(_COLOURS)], several=len(runs) > 1)
        losses.set_ylim(*_range(runs))
        losses.legend(loc="upper right", title="thin: training, bold: validation" if len(runs) > 1 else None)
        rates.set_ylim(bottom=0)
        figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()


def _label(losses: "Axes", rates: "Axes", runs: Sequence[Run]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415 (an extra)

    title = runs[0].title if len(runs) == 1 else f"{len(runs)} runs"
    losses.set_title(_short(title, 80), loc="left", fontweight="bold", fontsize=13, pad=10)
    losses.set_ylabel("loss (nats per token)")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("iteration")
    rates.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    rates.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    rates.yaxis.set_major_locator(MaxNLocator(3))
    rates.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_run(losses: "Axes", rates: "Axes", run: Run, colour: str, *, several: bool) -> None:
    if len(run.losses) > _POINTS and not several:
        losses.plot(run.iterations, run.losses, color=colour, alpha=0.12, linewidth=0.5)
    name = _short(run.name, 24)
    missing = f"{name}: no validation loss yet" if several and not len(run.val_losses) else None
    dot = "." if len(run.losses) == 1 else None
    label = missing if several else "training"
    losses.plot(*_averaged(run), color=colour, alpha=0.5, linewidth=1, marker=dot, label=label)
    rates.plot(run.iterations, run.learning_rates, color=colour, linewidth=1.4, marker=dot)
    if not len(run.val_losses):
        return
    best = int(np.argmin(run.val_losses))
    iteration, loss = run.evaluated[best], run.val_losses[best]
    words = f"best {loss:.4f} (perplexity {perplexity(loss)}) at iteration {iteration:,.0f}"
    losses.plot(
        run.evaluated,
        run.val_losses,
        color=colour,
        linewidth=2.4,
        label=f"{name}: {words}" if several else "validation",
    )
    losses.plot(
        [iteration],
        [loss],
        marker="o",
        linestyle="none",
        color=colour if several else _BEST,
        markersize=9,
        markeredgecolor="white",
        markeredgewidth=1.5,
        label=None if several else words,
        zorder=5,
    )


def perplexity(loss: float) -> str:
    """Two to the bits: how many equally likely tokens a loss (nats) is like."""
    return f"{math.exp(loss):,.2f}" if loss < _LARGE else "huge"


def _short(name: str, most: int) -> str:
    """A name as a legend has room for it; matplotlib leaves out what begins with an underscore."""
    name = name if len(name) <= most else f"{name[: most - 1]}…"
    return f" {name}" if name.startswith("_") else name


def _averaged(run: Run) -> tuple[Array, Array]:
    """Iterations and training losses, as means of neighbours where there are many."""
    parts = min(_POINTS, len(run.losses))
    means = [
        np.asarray([part.mean() for part in np.array_split(column, parts)]) for column in (run.iterations, run.losses)
    ]
    return means[0], means[1]


def _range(runs: Sequence[Run]) -> tuple[float, float]:
    """Limits of the loss axis: all of it, but not the first steep part of a long run."""
    both = [np.concatenate([run.losses, run.val_losses]) for run in runs]
    low = min(float(values.min()) for values in both)
    high = max(float(np.quantile(values, 0.99 if len(values) > _POINTS else 1)) for values in both)
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def _numbers(line: bytes) -> dict[str, float] | None:
    """The finite numbers in a line; None if it is damaged, or has no iteration or no loss."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict):
        return None
    finite = {
        name: float(value)
        for name, value in raw.items()
        if type(value) in {int, float} and abs(value) <= sys.float_info.max
    }
    return finite if {"iter", "loss"} <= set(finite) else None


def _column(rows: Iterable[dict[str, float]], name: str) -> Array:
    return np.asarray([row.get(name, math.nan) for row in rows], dtype=np.float64)
