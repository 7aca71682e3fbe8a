"""Figure of the curvature: the steepest directions at one network, and how much of the way to another is in them."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...files import CorruptFileError
from ..arrays import Arrays, read_arrays
from ..formatting import decimal
from .axes import label_lines, panel, round_numbers, round_ticks
from .style import COLOURS, DASHED, MUTED, new_figure, styled


def read_curvature(folder: Path) -> dict[str, Any]:
    """``curvature.npz`` of a run, checked; empty where there is none."""
    shapes = {"eigenvalues": ("directions",), "cosines": ("directions",)}
    shapes |= dict.fromkeys(("share", "random", "along", "distance", "parameters"), ())
    arrays = read_arrays(folder / "curvature.npz", shapes, ("names", "verdict"))
    if arrays and not arrays["parameters"] > 0:
        raise CorruptFileError(f"{folder / 'curvature.npz'}: invalid parameters: {arrays['parameters']}")
    return arrays


def curvature_captions(arrays: Arrays) -> dict[str, tuple[str, str]]:
    """The caption of the figure, and its alternative text."""
    if not arrays:
        return {}
    first, second = map(str, arrays["names"][:2])
    caption = (
        f"Above, the largest curvatures of the training loss at {first}. Below, the fraction of the displacement to "
        f"{second} that lies in the steepest directions: the nearer to a random direction's, the flatter."
    )
    shown = (
        f"Largest eigenvalues of the Hessian, and the fraction of the displacement in their space: {arrays['verdict']}."
    )
    return {"curvature": (caption, shown)}


@styled
def curvature_figure(arrays: Arrays) -> Figure | None:
    """The eigenvalues above; below, the share in the space of the first j of them, and a random direction's dashed.

    >>> arrays = {"eigenvalues": np.array([2.0, 1.0]), "cosines": np.array([0.3, 0.4]), "parameters": np.array(8)}
    >>> figure = curvature_figure(arrays)
    >>> shares, random = (line.get_ydata() for line in figure.axes[1].lines)
    >>> shares.round(6).tolist(), random.tolist()
    ([0.3, 0.5], [0.3535533905932738, 0.5])
    """
    if not arrays:
        return None
    figure = new_figure(height=310)
    eigenvalues = arrays["eigenvalues"]
    j = np.arange(1, eigenvalues.size + 1)
    above = panel(figure, "eigenvalues of the Hessian", place=0, of=2)
    above.vlines(j, 0, eigenvalues, color=COLOURS["sgd"], linewidth=1.2)
    above.plot(j, eigenvalues, "o", color=COLOURS["sgd"], markersize=5)
    above.set_ylim(min(0, 1.1 * float(eigenvalues.min())), 1.1 * max(float(eigenvalues.max()), 1e-12))
    below = panel(figure, "fraction of the displacement", place=1, of=2)
    shares, random = np.sqrt(np.cumsum(arrays["cosines"] ** 2)), np.sqrt(j / float(arrays["parameters"]))
    below.plot(j, shares, "o-", color=COLOURS["grda"], markersize=4, linewidth=1.7)
    below.plot(j, random, color=MUTED, linewidth=1.7, linestyle=DASHED)
    below.set_ylim(0, 1.15 * max(shares[-1], random[-1]))
    below.set_xlabel("direction j, the steepest first")
    for axes in (above, below):
        axes.set_xlim(0.5, j[-1] + 0.5)
        axes.xaxis.set_major_locator(round_numbers(10, whole=True))
        round_ticks(axes.yaxis, 3)
    above.tick_params(axis="x", labelbottom=False)
    lines = (("the way", COLOURS["grda"], shares[-1]), ("random", MUTED, random[-1]))
    label_lines(below, [(f"{name}\n{decimal(value, 2)}", colour, value) for name, colour, value in lines])
    return figure
