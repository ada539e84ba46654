"""Plots of training runs: losses and learning rate by iteration. Reads metrics files; no torch.

matplotlib is an optional dependency, the extra `plot`.
"""

import io
import json
import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from randygpt.checkpoint.sidecar import Sidecar, read_sidecar
from randygpt.errors import CallerError, InvalidModelFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
Format = Literal["png", "svg"]
FORMATS: dict[str, Format] = {".png": "png", ".svg": "svg"}  # by suffix

_SUFFIX = ".metrics.jsonl"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
_BEST = "#D55E00"
_LARGE = 99  # nats; the perplexity of a larger loss is not printed
_POINTS = 400  # of the training-loss curve; a longer one is averaged
_DPI = 160
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "text.parse_math": False,  # a $ in a name is not math
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "randygpt",  # reproducible output
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Contents of a metrics file; arrays have one number per iteration (N,) or per evaluation (E,)."""

    name: str
    shape: str  # empty: unknown
    iterations: Array  # (N,)
    losses: Array  # (N,)
    learning_rates: Array  # (N,)
    evaluated: Array  # iterations with a validation loss, (E,)
    val_losses: Array  # (E,)
    bytes_per_token: float | None = None  # of the validation text; None: not recorded

    def __post_init__(self) -> None:
        if not len(self.iterations) == len(self.losses) == len(self.learning_rates) > 0:
            raise CallerError(f"{self.name}: iterations, losses and learning rates differ in number, or are none")
        if len(self.evaluated) != len(self.val_losses):
            raise CallerError(f"{self.name}: evaluations and validation losses differ in number")
        if self.bytes_per_token is not None and not 0 < self.bytes_per_token < math.inf:
            raise CallerError(f"{self.name}: the mean length of a token is {self.bytes_per_token} bytes")

    @property
    def title(self) -> str:
        """The name, with the shape if it is known."""
        return f"{self.name} ({self.shape})" if self.shape else self.name

    def bits_per_byte(self, loss: float) -> float | None:
        """Return a loss in bits per UTF-8 byte, None if the length of the tokens is not recorded."""
        return loss / math.log(2) / self.bytes_per_token if self.bytes_per_token else None


def metrics_path(path: Path) -> Path:
    """Return the metrics file of a PREFIX, PREFIX.bin or PREFIX_best.bin, or the metrics file itself."""
    if path.name.endswith(_SUFFIX):
        return path
    stem = path.name.removesuffix(".bin")
    metrics = path.with_name(f"{stem}{_SUFFIX}")
    if stem.endswith("_best") and not metrics.is_file():
        return path.with_name(f"{stem.removesuffix('_best')}{_SUFFIX}")
    return metrics


def run_name(metrics: Path) -> str:
    """Return the PREFIX of a metrics file, without its folder."""
    return metrics.name.removesuffix(_SUFFIX)


def read_run(path: Path) -> Run:
    """Return the run in a metrics file, skipping damaged lines.

    Raises:
        InvalidModelFile: No line is valid; the message names the file.
        OSError: The file cannot be read.
    """
    by_iteration = {}
    with path.open("rb") as file:
        for line in file:
            values = _numbers(line)
            if values:
                by_iteration[values["iter"]] = values
    if not by_iteration:
        raise InvalidModelFile(f"{path}: no line has an iteration and its loss")
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
        bytes_per_token=_bytes_per_token(measured, sidecar),
    )


def _bytes_per_token(measured: Sequence[dict[str, float]], sidecar: Sidecar | None) -> float | None:
    """Return the mean length of a token: from an evaluation, else from the sidecar, else None."""
    for row in measured:
        if row.get("val_bits_per_byte", 0) > 0 and row["val_loss"] > 0:
            return row["val_loss"] / math.log(2) / row["val_bits_per_byte"]
    bits = sidecar.bits_per_byte(math.log(2)) if sidecar else None
    return 1 / bits if bits else None


def is_comparable(runs: Iterable[Run]) -> bool:
    """Return whether all runs can be drawn in bits per byte."""
    return all(run.bytes_per_token for run in runs)


def draw(runs: Sequence[Run], kind: Format) -> bytes:
    """Return the image of one run, or of several to compare; raise CallerError if matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 (an extra)
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise CallerError("plotting needs matplotlib: pip install 'randygpt[plot]'") from None
    picture = io.BytesIO()
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the font lacks are drawn as boxes
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(9, 6), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        _label(losses, rates, runs)
        drawn = [_in_bits(run) for run in runs] if _are_in_bits(runs) else runs
        for index, run in enumerate(drawn):
            _draw_run(losses, rates, run, _COLOURS[index % len(_COLOURS)], several=len(runs) > 1)
        losses.set_ylim(*_range(drawn))
        losses.legend(loc="upper right", title="thin: training, bold: validation" if len(runs) > 1 else None)
        figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()


def _are_in_bits(runs: Sequence[Run]) -> bool:
    """Return whether the axis is in bits per byte: to compare runs, if all of them can be."""
    return len(runs) > 1 and is_comparable(runs)


def _in_bits(run: Run) -> Run:
    """Return a run with its losses in bits per byte."""
    assert run.bytes_per_token is not None  # noqa: S101 (is_comparable)
    factor = 1 / math.log(2) / run.bytes_per_token
    return replace(run, losses=run.losses * factor, val_losses=run.val_losses * factor)


def _label(losses: "Axes", rates: "Axes", runs: Sequence[Run]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator  # noqa: PLC0415 (an extra)

    title = runs[0].title if len(runs) == 1 else f"{len(runs)} runs"
    losses.set_title(_short(title, 80), loc="left", fontweight="bold", fontsize=13, pad=10)
    losses.set_ylabel("loss (bits per byte)" if _are_in_bits(runs) else "loss (nats per token)")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("iteration")
    rates.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    rates.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    rates.set_yscale("log")  # rates of recipes differ by a factor of 300
    rates.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=5))
    rates.yaxis.set_minor_locator(NullLocator())
    rates.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_run(losses: "Axes", rates: "Axes", run: Run, colour: str, *, several: bool) -> None:
    if len(run.losses) > _POINTS and not several:
        losses.plot(run.iterations + 1, run.losses, color=colour, alpha=0.12, linewidth=0.5)
    name = _short(run.name, 24)
    missing = f"{name}: no validation loss yet" if several and not len(run.val_losses) else None
    dot = "." if len(run.losses) == 1 else None
    label = missing if several else "training"
    losses.plot(*_averaged(run), color=colour, alpha=0.5, linewidth=1, marker=dot, label=label)
    rates.plot(run.iterations + 1, run.learning_rates, color=colour, linewidth=1.4, marker=dot)
    if not len(run.val_losses):
        return
    best = int(np.argmin(run.val_losses))
    iteration, loss = run.evaluated[best] + 1, run.val_losses[best]
    words = f"best {loss:.4f}{_explained(run, loss, several=several)} at iteration {iteration:,.0f}"
    losses.plot(
        run.evaluated + 1,
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


def _explained(run: Run, loss: float, *, several: bool) -> str:
    """Return a loss in another unit, in brackets; nothing if it is in bits per byte already."""
    if several:
        return ""
    bits = run.bits_per_byte(loss)
    return f" (perplexity {perplexity(loss)})" if bits is None else f" ({bits:.3f} bits per byte)"


def perplexity(loss: float) -> str:
    """Return the perplexity of a loss (nats per token), as text."""
    return f"{math.exp(loss):,.2f}" if loss < _LARGE else "huge"


def _short(name: str, max_length: int) -> str:
    """Return a name cut for a legend; matplotlib hides labels that start with an underscore."""
    name = name.encode(errors="replace").decode()  # a file name may not be text
    name = name if len(name) <= max_length else f"{name[: max_length - 1]}…"
    return f" {name}" if name.startswith("_") else name


def _averaged(run: Run) -> tuple[Array, Array]:
    """Return iterations and training losses, averaged over neighbors if there are many."""
    parts = min(_POINTS, len(run.losses))
    means = [
        np.asarray([part.mean() for part in np.array_split(column, parts)])
        for column in (run.iterations + 1, run.losses)
    ]
    return means[0], means[1]


def _range(runs: Sequence[Run]) -> tuple[float, float]:
    """Return the limits of the loss axis, leaving out the steep start of a long run."""
    both = [np.concatenate([run.losses, run.val_losses]) for run in runs]
    low = min(float(values.min()) for values in both)
    high = max(float(np.quantile(values, 0.99 if len(values) > _POINTS else 1)) for values in both)
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def _numbers(line: bytes) -> dict[str, float] | None:
    """Return the finite numbers in a line, None if it is damaged or lacks an iteration or a loss."""
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
