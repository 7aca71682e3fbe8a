"""The panels of the figures: axes, their ticks, and labels beside the lines."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from ..formatting import decimal
from .style import MUTED, WIDTH


def panel(
    figure: Figure, label: str, *, left: float = 50, right: float = 86, bottom: float = 42, place: int = 0, of: int = 1
) -> Axes:
    """Axes at fixed distances from the edges, so that panels of different figures align; the label stands above."""
    height = figure.get_figheight() * 72
    top, between = 32, 40
    each = (height - top - bottom - between * (of - 1)) / of
    above = top + place * (each + between)
    axes = figure.add_axes((left / WIDTH, 1 - (above + each) / height, 1 - (left + right) / WIDTH, each / height))
    note(axes, label, (0, 1), (1 - left, 12), color=MUTED)
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
    to_panel = axes.transScale + axes.transLimits
    visible = [math.isfinite(value) and (value > 0 or axes.get_yscale() == "linear") for *_, value in labels]
    heights = [to_panel.transform((1, value))[1] if seen else 0.5 for (*_, value), seen in zip(labels, visible)]
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


def round_numbers(most: int, *, whole: bool = False) -> MaxNLocator:
    """A locator of at most so many intervals between round numbers, or between whole ones."""
    return MaxNLocator(most, steps=[1, 2, 5, 10], integer=whole)


def range_of(values: Iterable[np.ndarray]) -> tuple[float, float]:
    """The lowest and the highest finite value; 0 and 0 if there is none."""
    finite = [float(value) for part in values for value in part if math.isfinite(value)]
    return min(finite, default=0.0), max(finite, default=0.0)


def round_ticks(axis: Axis, most: int) -> None:
    """At most so many intervals between round numbers."""
    axis.set_major_locator(round_numbers(most))
    axis.set_major_formatter(lambda value, _: decimal(value, 6).replace("-", "\N{MINUS SIGN}"))


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
        axes.yaxis.set_major_locator(round_numbers(5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if 1000 <= value < 1e6 else decimal(value))
