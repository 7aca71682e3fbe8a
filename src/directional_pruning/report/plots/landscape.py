"""Figures of the loss landscape: the loss along the curve between two networks, and on the plane through them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ..arrays import Arrays, read_arrays
from ..formatting import NOT_FINITE, decimal, percent, shortened
from .axes import label_lines, log_ticks, note, panel, range_of, round_numbers, round_ticks
from .style import COLOURS, DASHED, GROUND, INK, MUTED, new_figure, styled

_MEASURED = ("loss", "error", "test_loss", "test_error")


def read_curve(folder: Path) -> dict[str, Any]:
    """``curve.npz`` of a run, checked; empty where there is none."""
    along = ("t", "length", *_MEASURED)
    shapes = dict.fromkeys(along, ("points",)) | {f"line_{name}": ("line points",) for name in along}
    return read_arrays(folder / "curve.npz", shapes, ("names", "verdict"))


def read_plane(folder: Path) -> dict[str, Any]:
    """``plane.npz`` of a run, checked; empty where there is none."""
    shapes = {"x": ("x",), "y": ("y",), **dict.fromkeys(_MEASURED, ("y", "x")), "corners": (3, 2), "path": ("path", 2)}
    return read_arrays(folder / "plane.npz", shapes, ("names",))


def valley_figures(curve: Arrays, plane: Arrays) -> dict[str, Figure | None]:
    """The figures by name: those for which there are numbers."""
    data, error = _error_of(curve or plane)
    return {
        "curve-loss": _along_figure(curve, "loss", "training loss, log scale") if curve else None,
        "curve-error": _along_figure(curve, error, f"{data} error, %") if curve and error else None,
        "plane-loss": _plane_figure(plane, "loss", "training loss") if plane else None,
        "plane-error": _plane_figure(plane, error, f"{data} error, %") if plane and error else None,
    }


def valley_captions(curve: Arrays, plane: Arrays) -> dict[str, tuple[str, str]]:
    """For each figure its caption, and its alternative text."""
    data, _ = _error_of(curve or plane)
    span = "not finite"
    if plane and np.isfinite(plane["loss"]).any():
        span = f"from {decimal(np.nanmin(plane['loss']))} to {decimal(np.nanmax(plane['loss']))}"
    errors = f"Share of wrong answers on {data} data"
    where = "on the plane of both networks and the bend"
    return {
        "curve-loss": (
            "A flat curve means one valley: every network on it fits the training data as the two at its ends do.",
            f"Training loss along the curve between the networks, on a log scale: {curve['verdict'] if curve else ''}.",
        ),
        "curve-error": (
            f"{errors}, along the same curve and line.",
            f"{errors} along the curve and its straight line.",
        ),
        "plane-loss": (
            f"The valley from above, {where}: more shade, higher loss.",
            f"Contours of the training loss, {span}, {where} of their curve.",
        ),
        "plane-error": (f"{errors}, on the same plane.", f"{errors}, as contours {where} of their curve."),
    }


@styled
def _along_figure(arrays: Arrays, key: str, label: str) -> Figure:
    """The curve, and the straight line dashed, from one network to the other."""
    figure = new_figure()
    axes = panel(figure, label)
    unit = 0.01 if "error" in key else 1.0
    lines = []
    for prefix, name, colour, style in (("line_", "straight line", MUTED, DASHED), ("", "curve", INK, "solid")):
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
        round_ticks(axes.yaxis, 5)
    for end, name, colour in zip((0, -1), _names(arrays), COLOURS.values()):
        axes.plot(arrays["t"][end], arrays[key][end] / unit, "o", color=colour, markersize=6, clip_on=False)
        note(axes, name, (-end, 0), (0, -14), ha="right" if end else "left", color=colour)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["", "t = 0.5", ""])
    labels = []
    for name, colour, values in lines:
        top = values.max()  # not finite if any is not
        text = NOT_FINITE if not math.isfinite(top) else percent(top / 100, 2) if unit != 1 else decimal(top)
        labels.append((f"{name}\nmax {text}", colour, max(values[np.isfinite(values)], default=math.nan)))
    label_lines(axes, labels)
    return figure


@styled
def _plane_figure(arrays: Arrays, key: str, label: str) -> Figure:
    """Contours, the darker the higher, with the three networks and the curve drawn on them."""
    figure = new_figure(height=310)
    axes = panel(figure, label, left=44, right=14)
    values = np.ma.masked_invalid(arrays[key] / (0.01 if "error" in key else 1.0))
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
    round_ticks(axes.xaxis, 5)
    round_ticks(axes.yaxis, 5)
    return figure


def _levels(values: np.ndarray, most: int = 9) -> list[float]:
    """Round values between the lowest and the highest: 1, 2, 5 of each power of ten; evenly spaced from 0 down."""
    low, high = range_of([values])
    if not low < high:
        return []
    on_log = [LogLocator(subs=digits, numticks=99) for digits in ((1, 2, 5), (1, 3), (1,))]
    for locator in [round_numbers(most)] if low <= 0 else on_log:
        levels = [float(x) for x in locator.tick_values(low, high) if low < x < high]
        if len(levels) <= most:
            break
    return levels


def _error_of(arrays: Arrays) -> tuple[str, str]:
    """The data whose error is shown, and its key: test, or training without such; empty where there is none."""
    for data, key in (("test", "test_error"), ("training", "error")):
        if key in arrays and np.isfinite(arrays[key]).any():
            return data, key
    return "training", ""


def _names(arrays: Arrays) -> list[str]:
    return [shortened(str(name), 18) for name in arrays["names"]]
