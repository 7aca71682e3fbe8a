"""Figures of the theory: gRDA beside the closed form, on quadratics and on a small network."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from ..arrays import Arrays, read_arrays
from ..formatting import decimal
from ..html import pictures
from .axes import label_lines, log_ticks, panel
from .style import COLOURS, GREEN, MUTED, new_figure, styled


def write_theory(folder: str | os.PathLike[str]) -> list[Path]:
    """Draw ``quadratics.npz`` and ``digits.npz`` of a folder into ``figures/*.svg``; the paths of the figures.

    Raises ``CorruptFileError`` for a file that cannot be read or lacks something.
    """
    files = Path(folder) / "figures"
    shapes = {"rates": ("rates",), "times": ("times",), **dict.fromkeys(("error", "noisy_error"), ("rates", "times"))}
    quadratics = read_arrays(files.parent / "quadratics.npz", shapes)
    shapes = {"times": ("times",), "error": (3, "times"), "sparsity": ("zeros",), "loss": (4, "zeros")}
    digits = read_arrays(files.parent / "digits.npz", shapes)
    titles = {
        "law-quadratics": "Difference of gRDA and the closed form on quadratics, over time",
        "law-digits": "Error of three scores against gRDA on a digits network, over time",
        "path-digits": "Training loss against sparsity for gRDA, the formula and magnitude pruning",
    }
    figures = dict(zip(titles, (law_figure(quadratics), network_figure(digits), path_figure(digits))))
    pictures(figures, {name: ("", title) for name, title in titles.items()}, files)
    return [files / f"{name}.svg" for name in figures]


@styled
def law_figure(arrays: Arrays) -> Figure:
    """Above without noise, below with it: the largest difference to the closed form, a line for each rate."""
    figure = new_figure(height=330)
    shades = (COLOURS["grda"], COLOURS["sgd"], GREEN)
    for place, (key, label) in enumerate((("error", "full gradient"), ("noisy_error", "batches of 8 of 64 samples"))):
        axes = panel(figure, f"|difference| / threshold, {label}", place=place, of=2)
        lines = [(f"rate {decimal(r)}", c, e) for r, c, e in zip(arrays["rates"], shades, arrays[key])]
        _draw_lines(axes, arrays["times"], lines, "time t = n × rate" if place else "")
    return figure


@styled
def network_figure(arrays: Arrays) -> Figure:
    """The error of the closed form with s(t), with the flat scores, and of plain shrinking."""
    figure = new_figure()
    axes = panel(figure, "|gRDA − closed form| / |gRDA − SGD|")
    names = (("law s(t)", COLOURS["grda"]), ("flat scores", COLOURS["sgd"]), ("all s = 1", MUTED))
    _draw_lines(axes, arrays["times"], [(*name, e) for name, e in zip(names, arrays["error"])], "time t = n × rate")
    return figure


@styled
def path_figure(arrays: Arrays) -> Figure:
    """Training loss at the same numbers of zeros, on a log scale."""
    figure = new_figure()
    axes = panel(figure, "training loss, log scale")
    names = (("gRDA", COLOURS["grda"]), ("one-shot", COLOURS["sgd"]), ("magnitude", GREEN), ("dense", MUTED))
    lines = [(*name, x) for name, x in zip(names, arrays["loss"])]
    _draw_lines(axes, 100 * arrays["sparsity"], lines, "zeros, %", log=False)
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    return figure


def _draw_lines(
    axes: Axes, x: np.ndarray, lines: Sequence[tuple[str, str, np.ndarray]], label: str, *, log: bool = True
) -> None:
    axes.set_yscale("log", nonpositive="mask")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: decimal(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    for _, colour, y in lines:
        axes.plot(x, y, "o-", color=colour, linewidth=1.7, markersize=3.5)
    log_ticks(axes)
    axes.set_xlabel(label)
    axes.tick_params(axis="x", labelbottom=bool(label))
    last = [(name, colour, [*y[np.isfinite(y)], np.nan][-2:][0]) for name, colour, y in lines]
    label_lines(axes, [(f"{name}\n{decimal(value, 2)}", colour, value) for name, colour, value in last])
