"""Figures of where runs of one recipe end, beside the paper's: ours filled, the published hollow, others grey."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...run_folder import Run
from ..formatting import decimal
from ..published import Published
from ..statistics import row_of
from .axes import height_of, note, panel, percent_axis, range_of, round_numbers
from .curves import Groups, colour_of, published_colours
from .style import COLOURS, DASHED, GROUND, HEIGHT, MUTED, new_figure, styled

_METHODS = (("v", "-"), ("^", DASHED), ("s", "-"), ("D", ":"))  # markers and lines of other methods
_LAYERS = (":", DASHED, "-", (0, (6, 1.5, 1, 1.5)), (0, (5, 1)), (0, (1, 1)))  # lines of other methods by layer
_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


@styled
def accuracy_against_zeros(groups: Groups) -> Figure | None:
    """Test accuracy at the end against zeros, on an axis where halving the nonzeros is always the same distance.

    Ours filled, the paper's hollow, bars of one sample deviation. Dense baselines are level lines; other methods on the
    same network and data are grey lines.
    """
    rows = [(row_of(group), colour_of(at)) for at, group in enumerate(groups)]
    ours = [(row.label, row.sparsity_all, row.test_accuracy, colour) for row, colour in rows]
    ours = [(label, zeros.mean, accuracy, colour) for label, zeros, accuracy, colour in ours if zeros and accuracy]
    if not ours:
        return None
    paper = groups[0].paper
    key_height = 17 * ((3 + bool(paper) + 2 * len(paper.frontier if paper else ())) // 2)
    figure = new_figure(HEIGHT + key_height)
    axes = panel(figure, "test accuracy, %", right=22, bottom=52 + key_height)
    axes.plot([], [], "o", color=COLOURS["grda"], label="ours")
    if paper:
        _draw_paper(axes, paper, published_colours(groups))
    for _, zeros, accuracy, colour in ours:
        _point(axes, zeros, accuracy.mean, accuracy.std, color=colour, markersize=5, zorder=4)
    for at, level in enumerate(sorted(_dense_accuracies(groups))):
        axes.axhline(100 * level, color=COLOURS["sgd"], linewidth=1.4, label="" if at else "dense baseline, ours")
    if paper and paper.dense:
        level = 100 * paper.dense.test_accuracy
        axes.axhline(level, color=COLOURS["sgd"], linewidth=1.4, linestyle=DASHED, label="dense baseline, the paper")
    low, high = range_of([np.array(axes.dataLim.intervaly)])
    low = max(low, high - 18) if paper and paper.frontier else low
    margin = max(0.1 * (high - low), 0.2)
    axes.set_ylim(low - 2 * margin, high + margin)
    axes.yaxis.set_major_locator(round_numbers(6))
    axes.margins(x=0.06)
    _name_points(axes, [(float(zeros_position(zeros)), label, colour) for label, zeros, _, colour in ours])
    zeros_axis(axes, "zeros, % of all parameters (log scale of the nonzeros)")
    key_below(axes)
    return figure


@styled
def layer_by_layer(groups: Groups) -> Figure | None:
    """Zeros of each layer's weights from the input to the output; ours are points, other methods lines."""
    paper = groups[0].paper
    layers = paper.layers if paper else None
    names, methods = (layers.names, layers.methods) if layers else ((), {})
    ours = [(group, colour_of(at), _layers(group.finished, names)) for at, group in enumerate(groups)]
    ours = [(group, colour, zeros) for group, colour, zeros in ours if len(zeros)]
    if not ours:
        return None
    key_height = 17 * ((len(methods) + len(ours) + 1) // 2)
    figure = new_figure(HEIGHT + key_height)
    axes = panel(figure, "zeros, % of the layer's weights", right=14, bottom=52 + key_height)
    by_law = [(group, colour) for group, colour, _ in ours if group.runs[0].target is None]
    colours = {f"gRDA, c {c:g}, μ {mu:g}": colour for group, colour in by_law for c, mu in [group.runs[0].setting]}
    for (name, zeros), style in zip(methods.items(), _LAYERS):
        look = {"color": colours.get(name, MUTED), "linewidth": 1.1, "linestyle": style}
        axes.plot(np.arange(1, len(zeros) + 1), 100 * zeros, label=name.replace("gRDA", "the paper"), **look)
    for group, colour, zeros in ours:
        look = {"color": colour, "markersize": 3.5, "linestyle": "" if methods else "-", "linewidth": 1}
        axes.plot(np.arange(1, len(zeros) + 1), zeros, "o", label=f"ours, {group.label}", **look)
    percent_axis(axes)
    axes.set_xlim(0, max(len(zeros) for *_, zeros in ours) + 1)
    axes.xaxis.set_major_locator(round_numbers(8, whole=True))
    axes.set_xlabel("layer, from the input to the output")
    key_below(axes)
    return figure


def _draw_paper(axes: Axes, paper: Published, colours: dict[tuple[float, float], str]) -> None:
    axes.plot([], [], "o", color=COLOURS["grda"], markerfacecolor=GROUND, label="the paper")
    for row in paper.settings:
        look = {"color": colours.get((row.c, row.mu), MUTED), "markerfacecolor": GROUND, "markersize": 7, "zorder": 3}
        _point(axes, row.sparsity, row.test_accuracy, row.test_accuracy_std, **look)
    if paper.others:
        x, y = ([getattr(row, key) for row in paper.others] for key in ("sparsity", "test_accuracy"))
        axes.plot(zeros_position(x), 100 * np.array(y), "+", color=MUTED, label="the paper, other schedule")
    for (name, line), (marker, style) in zip(paper.frontier.items(), _METHODS):
        look = {"marker": marker, "linestyle": style, "color": MUTED, "linewidth": 1, "markersize": 3}
        axes.plot(zeros_position(line.x), 100 * line.y, label=name, **look)


def _layers(runs: Sequence[Run], names: Sequence[str]) -> np.ndarray:
    """Zeros of each weight of two or more dimensions, percent, in the order of ``names`` where these are all there."""
    zeros: dict[str, list[float]] = {}
    for run in runs:
        for layer in run.summary.get("layers", []):
            if len(layer.get("shape") or (0, 0)) > 1:
                zeros.setdefault(str(layer["name"]), []).append(100 * (1 - layer["nonzeros"] / layer["total"]))
    order = names if names and set(names) <= set(zeros) else zeros
    return np.array([np.mean(zeros[name]) for name in order])


def zeros_position(zeros: Any) -> Any:
    """Where a fraction of zeros stands on the log axis of the nonzeros."""
    return -np.log10(np.maximum(1 - np.asarray(zeros, dtype=float), 1e-6))


def zeros_axis(axes: Axes, label: str) -> None:
    """Round percentages on the log axis of the nonzeros; the usual ones, or others where the axis is short."""
    low, high = axes.get_xlim()
    ticks = [tick for tick in _TICKS if low <= zeros_position(tick) <= high]
    if len(ticks) < 2:
        round_ones = round_numbers(4).tick_values(100 - 100 * 10**-low, 100 - 100 * 10**-high)
        ticks = [tick / 100 for tick in round_ones if tick < 100 and low <= zeros_position(tick / 100) <= high]
    axes.set_xticks(zeros_position(ticks), [decimal(100 * tick, 4) for tick in ticks])
    axes.set_xlim(low, high)
    axes.set_xlabel(label)


def _point(axes: Axes, zeros: float, accuracy: float, deviation: float | None, **look: Any) -> None:
    axes.errorbar(
        zeros_position(zeros), 100 * accuracy, yerr=100 * (deviation or 0) or None, fmt="o", elinewidth=1, **look
    )


def _dense_accuracies(groups: Groups) -> set[float]:
    means = set()
    for group in {group.protocol: group for group in groups}.values():
        results = [run.summary.get("sgd", {}) for run in group.dense_runs.values()]
        accuracies = [result["test_accuracy"] for result in results if "test_accuracy" in result]
        means |= {float(np.mean(accuracies))} if accuracies else set()
    return means


def _name_points(axes: Axes, points: Sequence[tuple[float, str, str]]) -> None:
    """Write each point's name at the bottom of the panel, straight below it, where the names before leave room."""
    end = -1e9
    for x, name, colour in sorted(points):
        at = axes.transData.transform((x, 0))[0] / axes.figure.dpi * 72
        if at - 3 * len(name) > end:
            note(axes, name, (x, 0), (0, 4), of=("data", "axes fraction"), ha="center", color=colour, fontsize=10)
            end = at + 3 * len(name)


def key_below(axes: Axes) -> None:
    """What the lines and points are, in two columns below the panel."""
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.1, -44 / height_of(axes)), borderaxespad=0, ncols=2, frameon=False,
        fontsize=10, handlelength=2.2, columnspacing=1.2, labelspacing=0.25,
    )  # fmt: skip
