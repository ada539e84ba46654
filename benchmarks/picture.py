"""A report as a picture: for each row with a goal, how many times as good as its goal it is."""

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
TICKS = (1, 1.5, 2, 3, 5, 10, 20, 50, 100)  # times as good, and times as bad
LEAST, MOST = 1.6, 100.0  # times the goal that the axis shows in any case, and at most
NAME_WIDTH = 40  # characters of a line
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
    "svg.hashsalt": "randygpt",  # the same picture is the same file
}


def draw(results: Sequence[Result], caption: str, kind: str = "svg") -> bytes:
    """The picture; rows without a goal are left out."""
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
        axes.set_title("Speed, against its goals", loc="left", fontweight="bold", fontsize=13, pad=24)
        axes.annotate(
            caption, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=9, color=QUIET
        )
        figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()


def _axis(axes: "Axes", scores: Sequence[float]) -> None:
    """Times as good as the goal: to the right what is better, to the left what is worse."""
    low = max(1 / MOST, min([1 / LEAST, *scores])) / 1.08
    high = min(MOST, max([LEAST, *scores])) * 1.08
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    places = sorted({*TICKS, *(1 / tick for tick in TICKS)})
    axes.xaxis.set_major_locator(FixedLocator([place for place in places if low <= place <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: _times(place)))
    axes.set_xlabel("times as good as the goal")


def _times(place: float) -> str:
    if place == 1:
        return "goal"
    return f"{place:.3g} x" if place > 1 else f"1/{1 / place:.3g} x"


def _bar(axes: "Axes", place: int, result: Result) -> None:
    """A bar from the goal to the value, and both as words."""
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
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    axes.text(1.02, place - 0.04, result.value_words, va="bottom", color=colour, fontweight="bold", **beside)
    goal = f"goal {result.goal_words}{'' if result.reached else ', missed'}"
    axes.text(1.02, place + 0.04, goal, va="top", color=QUIET, fontsize=9, **beside)
