"""Lines over epochs, labelled where they end."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .canvas import COLOURS, STEPS, note
from .wording import NAMES, NOT_FINITE, decimal

Record = Mapping[str, Any]


class Curve(NamedTuple):
    """One line of a panel: its colour, what its label says, and its points."""

    colour: str
    name: str
    epochs: np.ndarray
    values: np.ndarray
    dashed: bool = False


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


def last_epoch(metrics: Sequence[Record]) -> float:
    """Where the axis ends: at the planned epoch if it is known."""
    planned = [float(record.get("epochs") or 0) for record in metrics]
    return max([record["epoch"] for record in metrics] + [epochs for epochs in planned if math.isfinite(epochs)] + [1])


def range_of(values: Iterable[np.ndarray]) -> tuple[float, float]:
    """The lowest and the highest finite value; 0 and 0 if there is none."""
    finite = [float(value) for part in values for value in part if math.isfinite(value)]
    return min(finite, default=0.0), max(finite, default=0.0)


def draw(axes: Axes, curves: Sequence[Curve], end: float, write: Callable[[float], str]) -> None:
    """Draw the curves over epochs 0 to ``end``, and beside the panel what each is and its last value."""
    for curve in curves:
        style = (0, (3, 1.6)) if curve.dashed else "solid"
        axes.plot(curve.epochs, curve.values, color=curve.colour, linewidth=1.7, linestyle=style)
    axes.set_xlim(0, end)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value)))
    axes.autoscale_view(scalex=False)
    heights = []
    for curve in curves:
        drawn = np.flatnonzero(np.isfinite(curve.values) & ((curve.values > 0) | (axes.get_yscale() == "linear")))
        if drawn.size:
            point = (curve.epochs[drawn[-1]], curve.values[drawn[-1]])
            axes.plot(*point, "o", color=curve.colour, markersize=5, clip_on=False)
            heights.append(axes.transAxes.inverted().transform(axes.transData.transform(point))[1])
        else:
            heights.append(0.5)
    line = 14 / (axes.get_window_extent().height / axes.figure.dpi * 72)
    for curve, height in zip(curves, _apart(heights, 2 * line)):
        value = write(curve.values[-1]) if math.isfinite(curve.values[-1]) else NOT_FINITE
        note(axes, f"{curve.name}\n{value}", (1, height), (10, 0), va="center", color=curve.colour)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move positions away from each other until neighbours are ``gap`` apart, and all between half a gap and 1."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = [min(max(height, gap / 2), 1.0) for height in heights]
    for _ in range(100):
        for below, above in pairwise(order):
            push = max(gap - moved[above] + moved[below], 0.0) / 2
            moved[below], moved[above] = max(moved[below] - push, gap / 2), min(moved[above] + push, 1.0)
    return moved
