"""Curves over the epochs: means over the seeds of our groups, the paper's beside them, drawn with labels."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from ...run_folder import Run
from ..formatting import NOT_FINITE
from ..groups import Group
from .axes import label_lines, log_ticks, round_numbers
from .style import COLOURS, DASHED, GROUND, SETTINGS

Groups = Sequence[Group]


class Curve(NamedTuple):
    """One line over the epochs. The paper's have no name: they lie on top of ours and have no label."""

    colour: str
    name: str
    epochs: np.ndarray
    values: np.ndarray
    dashed: bool = False
    band: tuple[np.ndarray, np.ndarray] | None = None
    """The lowest and the highest values of several seeds."""


def colour_of(at: int) -> str:
    """The colour of the lines and points of a group, by its place."""
    return SETTINGS[at % len(SETTINGS)]


def published_colours(groups: Groups) -> dict[tuple[float, float], str]:
    """By c and mu, the colour of each published setting that a group has: that of the first such group."""
    rows = [(group.paper_row, colour_of(at)) for at, group in enumerate(groups)]
    return {(row.c, row.mu): colour for row, colour in reversed(rows) if row}


def group_curves(groups: Groups, key: str, unit: float, length: float, networks: Sequence[str]) -> list[Curve]:
    """A curve for the dense baselines of each protocol and one for each group; ``length`` is where training ends."""
    curves = []
    for protocol, group in {group.protocol: group for group in groups}.items() if "sgd" in networks else ():
        look = COLOURS["sgd"], ", ".join(filter(None, ("dense", protocol)))
        curves += _mean_curve(group.dense_runs.values(), "sgd", key, unit, length / group.epochs, *look)
    for at, group in enumerate(groups) if "grda" in networks else ():
        curves += _mean_curve(group.runs, "grda", key, unit, length / group.epochs, colour_of(at), group.label)
    return curves


def _mean_curve(
    runs: Iterable[Run], network: str, key: str, unit: float, scale: float, colour: str, name: str
) -> list[Curve]:
    """The mean over the runs that have got furthest, with the lowest and highest of them; nothing without records."""
    series = [{record["epoch"]: record[key] for record in run.of(network) if key in record} for run in runs]
    furthest = max((max(line) for line in series if line), default=0)
    series = [line for line in series if line and max(line) == furthest]
    if not series:
        return []
    epochs = sorted(set.intersection(*map(set, series)))
    values = np.array([[line[epoch] for epoch in epochs] for line in series], dtype=float) / unit
    band = (values.min(axis=0), values.max(axis=0)) if len(series) > 1 else None
    return [Curve(colour, name, np.array(epochs) * scale, values.mean(axis=0), band=band)]


def published_curves(
    groups: Groups, key: str, unit: float, length: float, end: float, networks: Iterable[str]
) -> list[Curve]:
    """The paper's curves of our settings, up to the first point past the end of the axis."""
    paper, colours = groups[0].paper, published_colours(groups)
    if paper is None:
        return []
    rows = [(paper.dense, COLOURS["sgd"])] if "sgd" in networks else []
    rows += [(row, colours[row.c, row.mu]) for row in paper.settings if (row.c, row.mu) in colours]
    curves = []
    for row, colour in rows:
        if row is not None and key in row.curves:
            epochs, values = row.curves[key]
            epochs = epochs * (length / paper.epochs)
            count = np.searchsorted(epochs, end) + 1
            curves.append(Curve(colour, "", epochs[:count], values[:count] / unit, dashed=True))
    return curves


def end_of_axis(curves: Iterable[Curve], length: float) -> float:
    """The end of training, or soon after the last epoch there is, so that a few of many can be read."""
    return min(length, 1.1 * max(curve.epochs[-1] for curve in curves))


def draw_curves(axes: Axes, curves: Sequence[Curve], end: float, write: Callable[[float], str]) -> None:
    """Draw the curves over epochs 0 to ``end``, and beside the panel the name and last value of each of ours."""
    for curve in curves:
        look: dict[str, Any] = {"linewidth": 1.7, "linestyle": DASHED if curve.dashed else "solid"}
        if not curve.name:
            look |= {"linewidth": 1.2, "zorder": 3, "path_effects": [withStroke(linewidth=2.6, foreground=GROUND)]}
            look |= {"marker": "o", "markersize": 4, "markerfacecolor": GROUND} if len(curve.epochs) < 25 else {}
        axes.plot(curve.epochs, curve.values, color=curve.colour, **look)
        if curve.band is not None:
            axes.fill_between(curve.epochs, *curve.band, color=curve.colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0, end)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(round_numbers(5, whole=True))
    axes.autoscale_view(scalex=False)
    labels = []
    for curve in filter(lambda curve: curve.name, curves):
        visible = np.isfinite(curve.values) & ((curve.values > 0) | (axes.get_yscale() == "linear"))
        x, y = curve.epochs[visible][-1:], curve.values[visible][-1:]
        axes.plot(x, y, "o", color=curve.colour, markersize=5, clip_on=False)
        value = write(curve.values[-1]) if math.isfinite(curve.values[-1]) else NOT_FINITE
        labels.append((f"{curve.name}\n{value}", curve.colour, y[0] if len(y) else math.nan))
    label_lines(axes, labels)
    if axes.get_yscale() == "log":
        log_ticks(axes)
