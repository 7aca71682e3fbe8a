"""Pictures of the valley: the loss along the curve between two networks, and on the plane through them."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...files import CorruptFileError
from ...run_folder import printable
from ..formatting import NOT_FINITE, decimal, percent
from .run import log_ticks, shortened
from .style import COLOURS, GROUND, INK, MUTED, STEPS, apart, new_figure, note, panel, range_of, styled

Arrays = Mapping[str, np.ndarray]

_MEASURED = ("loss", "error", "test_loss", "test_error")
_ALONG = ("t", "length", *_MEASURED)


def read_curve(folder: Path) -> dict[str, Any]:
    """``curve.npz`` of a run, checked; empty where there is none.

    Raises:
        CorruptFileError: for a file that cannot be read or lacks something.
    """
    arrays = read_arrays(folder / "curve.npz", (*_ALONG, *(f"line_{name}" for name in _ALONG), "names", "verdict"))
    for prefix in ("", "line_") if arrays else ():
        points = arrays[f"{prefix}t"].size
        for name in _ALONG:
            check_shape(folder / "curve.npz", arrays, f"{prefix}{name}", (points,))
    return arrays


def read_plane(folder: Path) -> dict[str, Any]:
    """``plane.npz`` of a run, checked as :func:`read_curve` does."""
    arrays = read_arrays(folder / "plane.npz", ("x", "y", *_MEASURED, "corners", "path", "names"))
    if arrays:
        size = arrays["y"].size, arrays["x"].size
        for name, shape in (*((name, size) for name in _MEASURED), ("corners", (3, 2))):
            check_shape(folder / "plane.npz", arrays, name, shape)
        check_shape(folder / "plane.npz", arrays, "path", (len(arrays["path"]), 2))
    return arrays


def valley_figures(curve: Arrays, plane: Arrays) -> dict[str, Figure | None]:
    """The pictures by name: those for which there are numbers."""
    data, error = _error_of(curve or plane)
    return {
        "curve-loss": _along_figure(curve, "loss", "training loss, log scale") if curve else None,
        "curve-error": _along_figure(curve, error, f"{data} error, %") if curve and error else None,
        "plane-loss": _plane_figure(plane, "loss", "training loss") if plane else None,
        "plane-error": _plane_figure(plane, error, f"{data} error, %") if plane and error else None,
    }


def valley_captions(curve: Arrays, plane: Arrays) -> dict[str, tuple[str, str]]:
    """What to see in each picture, and the same for those who cannot see it."""
    verdict = str(curve["verdict"]) if curve else ""
    data, _ = _error_of(curve or plane)
    third = "the bend of their curve"
    spoken = {}
    for key in ("loss", "test_error", "error"):
        if plane and np.isfinite(plane[key]).any():
            spoken[key] = f"from {decimal(np.nanmin(plane[key]))} to {decimal(np.nanmax(plane[key]))}"
    return {
        "curve-loss": (
            "A flat curve means one valley: every network on it fits the training data as the two at its ends do.",
            f"Training loss along the curve between the two networks, on a log scale: {verdict}.",
        ),
        "curve-error": (
            f"Share of wrong answers on {data} data, along the same curve and the straight line.",
            f"Share of wrong answers on {data} data along the curve and along the straight line.",
        ),
        "plane-loss": (
            "The valley from above, on the plane of both networks and the bend: more shade, higher loss.",
            f"Contours of the training loss, {spoken.get('loss', '')}, on the plane of both networks and {third}.",
        ),
        "plane-error": (
            f"The same plane, with the share of wrong answers on {data} data.",
            f"Contours of the share of wrong answers on {data} data on the plane of both networks and {third}.",
        ),
    }


@styled
def _along_figure(arrays: Arrays, key: str, label: str) -> Figure:
    """The curve, and the straight line dashed, from one network to the other."""
    figure = new_figure()
    axes = panel(figure, label)
    unit = 0.01 if "error" in key else 1.0
    lines = []
    for prefix, name, colour, style in (("line_", "straight line", MUTED, (0, (3, 1.6))), ("", "curve", INK, "solid")):
        t, values = arrays[f"{prefix}t"], arrays[f"{prefix}{key}"] / unit
        axes.plot(t, values, color=colour, linewidth=1.7, linestyle=style)
        lines.append((name, colour, values))
    lowest, highest = range_of(values for _, _, values in lines)
    if unit == 1 and highest > 0:
        axes.set_yscale("log", nonpositive="mask")
        low, high = axes.get_ylim()
        if high < 10 * low:  # a valley should look flat, not like its own rounding
            axes.set_ylim(low / 3, high * 3)
        log_ticks(axes)
    else:
        margin = max(0.1 * (highest - lowest), 0.2)
        axes.set_ylim(max(lowest - margin, -0.1), highest + margin)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value)))
    for end, colour in ((0, COLOURS["sgd"]), (-1, COLOURS["grda"])):
        axes.plot(arrays["t"][end], arrays[key][end] / unit, "o", color=colour, markersize=6, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["", "t = 0.5", ""])
    for at, name, colour in zip((0, 1), _names(arrays), (COLOURS["sgd"], COLOURS["grda"])):
        note(axes, name, (at, 0), (0, -14), ha="left" if at == 0 else "right", color=colour)
    heights = [_height(axes, np.nanmax(values) if np.isfinite(values).any() else math.nan) for _, _, values in lines]
    gap = 28 / (axes.get_window_extent().height / figure.dpi * 72)
    for (name, colour, values), height in zip(lines, apart(heights, gap)):
        top = values.max()  # not finite if any is not
        said = NOT_FINITE if not math.isfinite(top) else percent(top / 100, 2) if unit != 1 else decimal(top)
        note(axes, f"{name}\nmax {said}", (1, height), (10, 0), va="center", color=colour)
    return figure


@styled
def _plane_figure(arrays: Arrays, key: str, label: str) -> Figure:
    """Contours, the darker the higher, with the three networks and the curve drawn on them."""
    figure = new_figure(height=310)
    axes = panel(figure, label, left=44, right=14, label_at=44)
    values = arrays[key] / (0.01 if "error" in key else 1.0)
    values = np.ma.masked_invalid(values)
    levels = _levels(values.compressed())
    x, y = arrays["x"], arrays["y"]
    axes.grid(visible=False)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    for level in levels:
        # One translucent sheet above the other: dark on white, or light on black where the reader's screen is.
        axes.contourf(x, y, values, levels=[level, np.inf], colors=[INK], alpha=0.09)
    if levels:
        lines = axes.contour(x, y, values, levels=levels, colors=[MUTED], linewidths=0.7, alpha=0.8)
        numbers = axes.clabel(lines, fmt={level: decimal(level) for level in levels}, fontsize=9, colors=[INK])
        ends = axes.transData.transform(arrays["corners"])
        for number in numbers:  # they give way to the names
            if np.hypot(*(axes.transData.transform(number.get_position()) - ends).T).min() < 45 * figure.dpi / 72:
                number.remove()
    if len(arrays["path"]):
        axes.plot(*arrays["path"].T, color=INK, linewidth=1.8)
    (first, second, *_), corners = _names(arrays), arrays["corners"]
    below = corners[2, 1] > 0.05 * np.ptp(y)  # so that names keep off the curve
    for name, colour, (across, up), shift in (
        (first, COLOURS["sgd"], corners[0], -16 if below else 8),
        (second, COLOURS["grda"], corners[1], -16 if below else 8),
        ("bend", INK, corners[2], 8),
    ):
        axes.plot(across, up, "o", color=colour, markersize=7, markeredgecolor=GROUND, markeredgewidth=1.5)
        note(axes, name, (across, up), (0, shift), of="data", ha="center", color=colour, fontweight="bold")
    axes.set_xlabel("distance in the space of weights, along the straight line and off it")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value).replace("-", "\N{MINUS SIGN}")))
    return figure


def _levels(values: np.ndarray, most: int = 9) -> list[float]:
    """Round values between the lowest and the highest: 1, 2, 5 of each power of ten; evenly spaced from 0 down."""
    low, high = range_of([values])
    if not low < high:
        return []
    if low <= 0:
        return [float(x) for x in MaxNLocator(most, steps=STEPS).tick_values(low, high) if low < x < high]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        levels = [digit * 10.0**power for power in powers for digit in digits]
        levels = [level for level in levels if low < level < high]
        if len(levels) <= most:
            break
    return levels


def _height(axes: Axes, value: float) -> float:
    """Where a value stands in the panel, as a fraction; the middle for what is not finite."""
    if not math.isfinite(value) or (value <= 0 and axes.get_yscale() == "log"):
        return 0.5
    return float(axes.transAxes.inverted().transform(axes.transData.transform((0, value)))[1])


def _error_of(arrays: Arrays) -> tuple[str, str]:
    """The data whose error is shown, and its key: test, or training without such; empty where there is none."""
    for data, key in (("test", "test_error"), ("training", "error")):
        if key in arrays and np.isfinite(arrays[key]).any():
            return data, key
    return "training", ""


def _names(arrays: Arrays) -> list[str]:
    return [shortened(str(name), 18) for name in arrays["names"]]


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """These arrays of a file, numbers and texts; empty where there is no file, CorruptFileError for an odd one."""
    if not path.exists():
        return {}
    try:
        # Opened here, because numpy leaves a broken file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in names}
    except KeyError as error:
        raise CorruptFileError(f"{path}: {error.args[0]}") from None
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise CorruptFileError(f"{path} is not a readable file of arrays ({type(error).__name__})") from error
    for name, array in arrays.items():
        if name in ("names", "verdict"):
            arrays[name] = np.array(printable(array.astype(str).tolist()))
        elif array.dtype.kind not in "fiu":
            raise CorruptFileError(f"{path}: {name} holds no numbers")
    if "names" in arrays and arrays["names"].size < 2:
        raise CorruptFileError(f"{path}: names holds fewer than two")
    return arrays


def check_shape(path: Path, arrays: Arrays, name: str, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape, or an empty one."""
    if arrays[name].shape != shape or (0 in shape and name != "path"):
        raise CorruptFileError(f"{path}: {name} has shape {arrays[name].shape} (must be {shape})")
