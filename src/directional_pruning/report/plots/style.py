"""The look all pictures share, lines over epochs, and the way into SVG: the same records give the same bytes."""

import functools
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...run_folder import Record
from ..formatting import NAMES, NOT_FINITE, decimal

P = ParamSpec("P")
T = TypeVar("T")

# Blue and orange stay apart under every common colour blindness, and in grey.
INK, MUTED, GRID, GROUND = "#1f2429", "#5f6973", "#e4e7eb", "#ffffff"
COLOURS = {"sgd": "#1769aa", "grda": "#c75000"}
AT_NIGHT = {
    INK: "#e6e9ec",
    MUTED: "#9aa4ae",
    GRID: "#30363d",
    GROUND: "#15181c",
    COLOURS["sgd"]: "#62b5f0",
    COLOURS["grda"]: "#ff9547",
    "#a8488a": "#e08ac6",
    "#00866a": "#3fc4a0",
    "#a07400": "#e0b84a",
}
SETTINGS = (COLOURS["grda"], "#a8488a", "#00866a", "#a07400", INK)  # one after the other, apart for the colour-blind
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH, HEIGHT = 390.0, 275.0
DASHED = (0, (3, 1.6))
STEPS = [1, 2, 5, 10]  # between ticks, in powers of ten

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: texts are measured alike everywhere
    "font.size": 11,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.7,
    "figure.facecolor": GROUND,
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",
    "svg.hashsalt": "directional-pruning",
    "path.simplify_threshold": 0.1,
}


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Run ``draw`` under our style and nobody's ``matplotlibrc``; what the caller had set is back afterwards."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
            # Names may be in any script; the reader's fonts draw them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return draw(*args, **kwargs)

    return wrapped


def new_figure(height: float = HEIGHT) -> Figure:
    """An empty picture, measured in pixels."""
    return Figure(figsize=(WIDTH / 72, height / 72))


def panel(
    figure: Figure,
    label: str,
    *,
    left: float = 50,
    right: float = 86,
    place: int = 0,
    places: int = 1,
    label_at: float = 1,
    bottom: float = 42,
) -> Axes:
    """Axes at fixed distances from the edges, so that panels of different pictures align; the label stands above."""
    height = figure.get_figheight() * 72
    top, between = 32, 40
    each = (height - top - bottom - between * (places - 1)) / places
    above = top + place * (each + between)
    axes = figure.add_axes((left / WIDTH, 1 - (above + each) / height, 1 - (left + right) / WIDTH, each / height))
    note(axes, label, (0, 1), (label_at - left, 12), color=MUTED)
    return axes


def note(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], of: Any = "axes fraction", **look: Any
) -> None:
    """Write ``text`` some pixels away from a point given in fractions of the panel, or in other coordinates."""
    axes.annotate(text, at, xycoords=of, xytext=shift, textcoords="offset points", **look)


@styled
def to_svg(figure: Figure, title: str = "") -> str:
    """The figure as one SVG document that asks nothing of the network and turns dark where the reader's screen is.

    >>> svg = to_svg(new_figure(), "nothing <yet>")
    >>> "<title>nothing &lt;yet&gt;</title>" in svg, "DOCTYPE" in svg, svg == to_svg(new_figure(), "nothing <yet>")
    (True, False, True)
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = re.sub(r"<!DOCTYPE[^>]*>\s*", "", file.getvalue())
    night = "".join(
        f'[style*="{kind}: {day}"]{{{kind}:{dark}!important}}'
        for day, dark in AT_NIGHT.items()
        for kind in ("fill", "stroke")
    )
    added = f"<title>{escape(title)}</title>" if title else ""
    added += f"<style>text{{font-family:{FONTS}!important}}@media (prefers-color-scheme:dark){{{night}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda match: match[0] + added, svg, count=1)


class Curve(NamedTuple):
    """One line of a panel: its colour, its label (one without a name is another's, drawn on top), and its points."""

    colour: str
    name: str
    epochs: np.ndarray
    values: np.ndarray
    dashed: bool = False
    band: tuple[np.ndarray, np.ndarray] | None = None
    """The lowest and the highest values beside it, shaded."""


def curves_of(
    metrics: Sequence[Record], key: str, networks: Iterable[str] = tuple(NAMES), unit: float = 1.0
) -> list[Curve]:
    """One curve for each network that has this number, in multiples of ``unit``."""
    curves = []
    for network in networks:
        records = [record for record in metrics if record["network"] == network and key in record]
        if records:
            epochs = np.array([record["epoch"] for record in records], dtype=float)
            values = np.array([record[key] for record in records], dtype=float) / unit
            curves.append(Curve(COLOURS[network], NAMES[network], epochs, values))
    return curves


def planned_epochs(metrics: Sequence[Record]) -> float:
    """The length of training, or what there is of it where that is not known."""
    planned = [float(record.get("epochs") or 0) for record in metrics]
    return max([record["epoch"] for record in metrics] + [epochs for epochs in planned if math.isfinite(epochs)] + [1])


def last_epoch(metrics: Sequence[Record]) -> float:
    """Where the axis ends: with training, or soon after what there is of it."""
    return end_of_axis(planned_epochs(metrics), max([record["epoch"] for record in metrics] + [1]))


def end_of_axis(planned: float, reached: float) -> float:
    """Where an axis of epochs ends, so that a few of many can be read."""
    return min(planned, 1.1 * reached)


def cut(curve: Curve, end: float) -> Curve:
    """The curve up to the end of the axis, and the point behind it, to which the line leads."""
    kept = np.searchsorted(curve.epochs, end) + 1
    return curve._replace(epochs=curve.epochs[:kept], values=curve.values[:kept])


def range_of(values: Iterable[np.ndarray]) -> tuple[float, float]:
    """The lowest and the highest finite value; 0 and 0 if there is none."""
    finite = [float(value) for part in values for value in part if math.isfinite(value)]
    return min(finite, default=0.0), max(finite, default=0.0)


def draw(axes: Axes, curves: Sequence[Curve], end: float, write: Callable[[float], str]) -> None:
    """Draw the curves over epochs 0 to ``end``, and beside the panel what each is and its last value."""
    for curve in curves:
        look: dict[str, Any] = {"linewidth": 1.7, "linestyle": DASHED if curve.dashed else "solid"}
        if not curve.name:  # another's, on top of ours; its points where these are few
            look |= {"linewidth": 1.2, "zorder": 3, "path_effects": [withStroke(linewidth=2.6, foreground=GROUND)]}
            look |= {"marker": "o", "markersize": 4, "markerfacecolor": GROUND} if len(curve.epochs) < 25 else {}
        axes.plot(curve.epochs, curve.values, color=curve.colour, **look)
        if curve.band is not None:
            axes.fill_between(curve.epochs, *curve.band, color=curve.colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0, end)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value)))
    axes.autoscale_view(scalex=False)
    heights, labelled = [], [curve for curve in curves if curve.name]
    for curve in labelled:
        drawn = np.flatnonzero(np.isfinite(curve.values) & ((curve.values > 0) | (axes.get_yscale() == "linear")))
        if drawn.size:
            point = (curve.epochs[drawn[-1]], curve.values[drawn[-1]])
            axes.plot(*point, "o", color=curve.colour, markersize=5, clip_on=False)
            heights.append(axes.transAxes.inverted().transform(axes.transData.transform(point))[1])
        else:
            heights.append(0.5)
    line = 14 / (axes.get_window_extent().height / axes.figure.dpi * 72)
    for curve, height in zip(labelled, apart(heights, 2 * line)):
        value = write(curve.values[-1]) if math.isfinite(curve.values[-1]) else NOT_FINITE
        note(axes, f"{curve.name}\n{value}", (1, height), (10, 0), va="center", color=curve.colour)


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move positions away from each other until neighbours are ``gap`` apart, and all between half a gap and 1."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = [min(max(height, gap / 2), 1.0) for height in heights]
    for _ in range(100):
        for below, above in pairwise(order):
            push = max(gap - moved[above] + moved[below], 0.0) / 2
            moved[below], moved[above] = max(moved[below] - push, gap / 2), min(moved[above] + push, 1.0)
    return moved
