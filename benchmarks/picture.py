"""Picture of a report: one bar per row with a goal, showing the ratio of value and goal. No I/O."""

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from measure import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REACHED, MISSED, QUIET = "#0072B2", "#D55E00", "#555555"  # the first two of Okabe and Ito
TICKS = (1, 1.5, 2, 3, 5, 10, 20, 50, 100)  # ratios, and their inverses
LEAST, MOST = 1.6, 100.0  # the axis always reaches the first ratio, and never exceeds the second
NAME_WIDTH = 40  # characters per line
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#e6e6e6",
    "hatch.linewidth": 1.5,
    "text.parse_math": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "randygpt",  # equal pictures are equal files
}


def draw(results: Sequence[Result], caption: str, kind: str = "svg") -> bytes:
    """Return the picture; rows without a goal are left out."""
    shown = [result for result in results if result.score is not None]
    picture = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(10, 1.4 + 0.5 * len(shown)), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        _axis(axes, [result.score or 1 for result in shown])
        for place, result in enumerate(shown):
            _bar(axes, place, result)
        axes.axvline(1, color="black", linewidth=1.4)
        axes.set_yticks(range(len(shown)), [textwrap.fill(result.row.name, NAME_WIDTH) for result in shown])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_title("Measured values against their goals", loc="left", fontweight="bold", fontsize=13, pad=24)
        axes.annotate(
            caption, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=9, color=QUIET
        )
        figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()


def _axis(axes: "Axes", scores: Sequence[float]) -> None:
    """Set up the logarithmic axis: better than the goal to the right, worse to the left."""
    low = max(1 / MOST, min([1 / LEAST, *scores])) / 1.08
    high = min(MOST, max([LEAST, *scores])) * 1.08
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = sorted({*TICKS, *(1 / tick for tick in TICKS)})
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: _tick_text(ratio)))
    axes.set_xlabel("better than the goal by a factor of")


def _tick_text(ratio: float) -> str:
    if ratio == 1:
        return "goal"
    return f"{ratio:.3g} x" if ratio > 1 else f"1/{1 / ratio:.3g} x"


def _bar(axes: "Axes", place: int, result: Result) -> None:
    """Draw a bar from the goal to the value, labelled with both."""
    score = result.score or 1
    colour = REACHED if result.reached else MISSED
    axes.barh(
        place,
        score - 1,
        left=1,
        height=0.5,
        color=colour,
        hatch=None if result.reached else "////",
        edgecolor="white",
        linewidth=0,
    )
    label: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    axes.text(1.02, place - 0.04, result.value_text, va="bottom", color=colour, fontweight="bold", **label)
    goal = f"goal {result.goal_text}{'' if result.reached else ', missed'}"
    axes.text(1.02, place + 0.04, goal, va="top", color=QUIET, fontsize=9, **label)
