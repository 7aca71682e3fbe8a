"""Picture of the curvature: the steepest directions at one network, and how much of the way to another is in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...files import CorruptFileError
from ..formatting import decimal
from .landscape import check_shape, read_arrays
from .style import COLOURS, MUTED, STEPS, apart, new_figure, note, panel, styled

Arrays = Mapping[str, np.ndarray]

_NUMBERS = ("share", "random", "along", "distance", "parameters")


def read_curvature(folder: Path) -> dict[str, Any]:
    """``curvature.npz`` of a run, checked; empty where there is none.

    Raises:
        CorruptFileError: for a file that cannot be read or lacks something.
    """
    path = folder / "curvature.npz"
    arrays = read_arrays(path, ("eigenvalues", "cosines", *_NUMBERS, "names", "verdict"))
    if arrays:
        for name in ("eigenvalues", "cosines"):
            check_shape(path, arrays, name, (arrays["eigenvalues"].size,))
        for name in _NUMBERS:
            check_shape(path, arrays, name, ())
        if not arrays["parameters"] > 0:
            raise CorruptFileError(f"{path}: invalid parameters: {arrays['parameters']}")
    return arrays


def curvature_captions(arrays: Arrays) -> dict[str, tuple[str, str]]:
    """What to see in the picture, and the same for those who cannot see it."""
    if not arrays:
        return {}
    first, second = map(str, arrays["names"][:2])
    return {
        "curvature": (
            f"Above, the largest curvatures of the training loss at {first}. Below, the share of the way to {second} "
            "that lies in the steepest directions: the nearer to a random direction's, the flatter the way.",
            f"Largest eigenvalues of the Hessian, and the share of the way in their space: {arrays['verdict']}.",
        )
    }


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
    j = np.arange(1, arrays["eigenvalues"].size + 1)
    above = panel(figure, "eigenvalues of the Hessian", place=0, places=2)
    above.vlines(j, 0, arrays["eigenvalues"], color=COLOURS["sgd"], linewidth=1.2)
    above.plot(j, arrays["eigenvalues"], "o", color=COLOURS["sgd"], markersize=5)
    above.set_ylim(
        min(0, 1.1 * float(arrays["eigenvalues"].min())), 1.1 * max(float(arrays["eigenvalues"].max()), 1e-12)
    )
    below = panel(figure, "share of the way in the first j directions", place=1, places=2)
    shares, random = np.sqrt(np.cumsum(arrays["cosines"] ** 2)), np.sqrt(j / float(arrays["parameters"]))
    below.plot(j, shares, "o-", color=COLOURS["grda"], markersize=4, linewidth=1.7)
    below.plot(j, random, color=MUTED, linewidth=1.7, linestyle=(0, (3, 1.6)))
    below.set_ylim(0, 1.15 * max(shares[-1], random[-1]))
    below.set_xlabel("direction j, the steepest first")
    for axes in (above, below):
        axes.set_xlim(0.5, j[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=STEPS, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(3, steps=STEPS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value)))
    above.tick_params(axis="x", labelbottom=False)
    top = below.get_ylim()[1]
    gap = 28 / (below.get_window_extent().height / figure.dpi * 72)
    said = (("the way", COLOURS["grda"], shares), ("random", MUTED, random))
    for (name, colour, values), height in zip(said, apart([values[-1] / top for *_, values in said], gap)):
        note(below, f"{name}\n{decimal(values[-1], 2)}", (1, height), (10, 0), va="center", color=colour)
    return figure
