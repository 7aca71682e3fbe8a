"""The matplotlib style of all figures, their axes and labels, and SVG output: the same figure gives the same bytes."""

import functools
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Any, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..formatting import decimal

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
WIDTH, HEIGHT = 390.0, 275.0  # one unit is one CSS pixel, so texts keep their size on a desk and on a phone
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
    """An empty figure, measured in pixels."""
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
    """Axes at fixed distances from the edges, so that panels of different figures align; the label stands above."""
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


def label_lines(axes: Axes, labels: Sequence[tuple[str, str, float]]) -> None:
    """Beside the panel, write each text in its colour at the height of its value, moved so that no two touch.

    A value that the axis cannot show counts as the middle.
    """
    axes.autoscale_view()
    heights = []
    for *_, value in labels:
        visible = math.isfinite(value) and (value > 0 or axes.get_yscale() == "linear")
        point = axes.transData.transform((axes.get_xlim()[0], value)) if visible else None
        heights.append(0.5 if point is None else float(axes.transAxes.inverted().transform(point)[1]))
    for (text, colour, _), height in zip(labels, apart(heights, 28 / height_of(axes))):
        note(axes, text, (1, height), (10, 0), va="center", color=colour)


def labels_of(figure: Figure | None) -> str:
    """What :func:`label_lines` has written, as one sentence for those who cannot see the figure."""
    texts = [text.get_text() for axes in figure.axes for text in axes.texts] if figure else []
    return f"Last values: {'; '.join(text.replace(chr(10), ' ') for text in texts if chr(10) in text)}."


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move positions away from each other until neighbours are ``gap`` apart, and all between half a gap and 1."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = [min(max(height, gap / 2), 1.0) for height in heights]
    for _ in range(100):
        for below, above in pairwise(order):
            push = max(gap - moved[above] + moved[below], 0.0) / 2
            moved[below], moved[above] = max(moved[below] - push, gap / 2), min(moved[above] + push, 1.0)
    return moved


def height_of(axes: Axes) -> float:
    """The height of a panel in pixels."""
    return axes.get_window_extent().height / axes.figure.dpi * 72


def range_of(values: Iterable[np.ndarray]) -> tuple[float, float]:
    """The lowest and the highest finite value; 0 and 0 if there is none."""
    finite = [float(value) for part in values for value in part if math.isfinite(value)]
    return min(finite, default=0.0), max(finite, default=0.0)


def round_ticks(axis: Axis, most: int) -> None:
    """At most so many intervals between round numbers."""
    axis.set_major_locator(MaxNLocator(most, steps=STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value, 6).replace("-", "\N{MINUS SIGN}")))


def whole_ticks(axis: Axis, most: int) -> None:
    """At most so many intervals between round whole numbers."""
    axis.set_major_locator(MaxNLocator(most, steps=STEPS, integer=True))


def percent_axis(axes: Axes) -> None:
    """A vertical axis of all percentages."""
    axes.set_ylim(-2, 102)
    axes.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))


def log_ticks(axes: Axes) -> None:
    """Some six ticks, also where the axis spans less than a decade."""
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    if decades > 2:
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
    elif decades > 0.8:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.yaxis.set_minor_locator(NullLocator())
    written = FuncFormatter(lambda value, _: f"{value:,.0f}" if 1000 <= value < 1e6 else decimal(value))
    axes.yaxis.set_major_formatter(written)


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
