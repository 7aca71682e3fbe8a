"""Pictures of the theory: gRDA beside the closed form, on quadratics and on a small network."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from ...files import replacing
from ..formatting import decimal
from .landscape import Arrays, check_shape, read_arrays
from .run import log_ticks
from .style import COLOURS, MUTED, apart, new_figure, note, panel, styled, to_svg

_GREEN = "#3f9b64"  # readable on white and on black
Line = tuple[str, str, np.ndarray]


def write_theory(folder: str | os.PathLike[str]) -> list[Path]:
    """Draw ``quadratics.npz`` and ``digits.npz`` of a folder into ``figures/*.svg``; the paths of the pictures.

    Raises:
        CorruptFileError: for a file that cannot be read or lacks something.
    """
    folder = Path(folder)
    quadratics = read_arrays(folder / "quadratics.npz", ("rates", "times", "error", "noisy_error"))
    digits = read_arrays(folder / "digits.npz", ("times", "error", "sparsity", "loss"))
    for key in ("error", "noisy_error"):
        check_shape(folder / "quadratics.npz", quadratics, key, (quadratics["rates"].size, quadratics["times"].size))
    for key, shape in (("error", (3, digits["times"].size)), ("loss", (4, digits["sparsity"].size))):
        check_shape(folder / "digits.npz", digits, key, shape)
    drawn = {
        "law-quadratics": (law_figure(quadratics), "Difference of gRDA and the closed form on quadratics, over time"),
        "law-digits": (network_figure(digits), "Error of three scores against gRDA on a digits network, over time"),
        "path-digits": (
            path_figure(digits),
            "Training loss against sparsity for gRDA, the formula and magnitude pruning",
        ),
    }
    (folder / "figures").mkdir(exist_ok=True)
    paths = []
    for name, (figure, title) in drawn.items():
        paths.append(folder / "figures" / f"{name}.svg")
        with replacing(paths[-1]) as beside:
            beside.write_text(to_svg(figure, title), encoding="utf-8", newline="\n")
    return paths


@styled
def law_figure(arrays: Arrays) -> Figure:
    """Above without noise, below with it: the largest difference to the closed form, a line for each rate."""
    figure = new_figure(height=330)
    shades = (COLOURS["grda"], COLOURS["sgd"], _GREEN)
    for place, (key, label) in enumerate((("error", "full gradient"), ("noisy_error", "batches of 8 of 64 samples"))):
        axes = panel(figure, f"|difference| / threshold, {label}", place=place, places=2)
        lines = [(f"rate {decimal(r)}", c, e) for r, c, e in zip(arrays["rates"], shades, arrays[key])]
        _lines(axes, arrays["times"], lines, "time t = n × rate" if place else "")
    return figure


@styled
def network_figure(arrays: Arrays) -> Figure:
    """The error of the closed form with s(t), with the flat scores, and of plain shrinking."""
    figure = new_figure()
    axes = panel(figure, "|gRDA − closed form| / |gRDA − SGD|")
    names = (("law s(t)", COLOURS["grda"]), ("flat scores", COLOURS["sgd"]), ("all s = 1", MUTED))
    _lines(axes, arrays["times"], [(*name, e) for name, e in zip(names, arrays["error"])], "time t = n × rate")
    return figure


@styled
def path_figure(arrays: Arrays) -> Figure:
    """Training loss at the same numbers of zeros, on a log scale."""
    figure = new_figure()
    axes = panel(figure, "training loss, log scale")
    names = (("gRDA", COLOURS["grda"]), ("one-shot", COLOURS["sgd"]), ("magnitude", _GREEN), ("dense", MUTED))
    _lines(
        axes, 100 * arrays["sparsity"], [(*name, x) for name, x in zip(names, arrays["loss"])], "zeros, %", log=False
    )
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    return figure


def _lines(axes: Axes, x: np.ndarray, lines: Sequence[Line], label: str, *, log: bool = True) -> None:
    """Lines on a log scale, and beside the panel what each is and its last value."""
    axes.set_yscale("log", nonpositive="mask")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value)))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    for _, colour, y in lines:
        axes.plot(x, y, "o-", color=colour, linewidth=1.7, markersize=3.5)
    log_ticks(axes)
    axes.set_xlabel(label)
    axes.tick_params(axis="x", labelbottom=bool(label))
    last = [y[np.isfinite(y)][-1] if np.isfinite(y).any() else np.nan for *_, y in lines]
    low, high = np.log(axes.get_ylim())
    heights = [(np.log(value) - low) / (high - low) if value > 0 else 0.5 for value in last]
    gap = 28 / (axes.get_window_extent().height / axes.figure.dpi * 72)
    for (name, colour, _), value, height in zip(lines, last, apart(heights, gap)):
        note(axes, f"{name}\n{decimal(value, 2)}", (1, height), (10, 0), va="center", color=colour)
