"""Pictures of where runs of one recipe end, beside the paper's: ours filled, the published hollow, others grey."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from ...run_folder import Run
from ..formatting import decimal
from ..groups import Group
from ..statistics import Stat, row_of
from .style import COLOURS, DASHED, GROUND, HEIGHT, MUTED, STEPS, new_figure, note, panel, range_of, styled
from .training import colour_of

_STYLES = (":", DASHED, "-", (0, (6, 1.5, 1, 1.5)), (0, (5, 1)), (0, (1, 1)))  # of the methods, layer by layer
_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


@styled
def accuracy_against_zeros(groups: Sequence[Group]) -> Figure | None:
    """Test accuracy at the end against zeros, an axis on which halving what is left is always the same way.

    Ours filled, the paper's hollow, bars of one sample deviation. Dense baselines are level lines; other methods
    on the same network and data are lines of grey.
    """
    rows = [(row_of(group), colour_of(at)) for at, group in enumerate(groups)]
    ours = [(row, row.sparsity_all, row.test_accuracy, colour) for row, colour in rows]
    ours = [(row, zeros, accuracy, colour) for row, zeros, accuracy, colour in ours if zeros and accuracy]
    known = groups[0].known
    if not ours:
        return None
    handles = [_sample("o", COLOURS["grda"], "ours")]
    others = known.frontier if known else {}
    entries = 2 + bool(known) + 2 * len(others)
    figure = new_figure(HEIGHT + 17 * ((entries + 1) // 2))
    axes = panel(figure, "test accuracy, %", right=22, bottom=52 + 17 * ((entries + 1) // 2))
    heights: list[float] = []
    for (name, line), look in zip(others.items(), (("v", "-"), ("^", DASHED), ("s", "-"), ("D", ":"))):
        axes.plot(
            _left(line.x), 100 * line.y, marker=look[0], linestyle=look[1], color=MUTED, linewidth=1, markersize=3
        )
        handles.append(_sample(look[0], MUTED, name, linestyle=look[1], markersize=3))
        heights += [100 * float(y) for y in line.y]
    matched = {(group.row.c, group.row.mu): colour_of(at) for at, group in reversed([*enumerate(groups)]) if group.row}
    for row in known.settings if known else ():
        colour = matched.get((row.c, row.mu), MUTED)
        _point(
            axes, Stat(row.sparsity, None, 1), Stat(row.test_accuracy, row.test_accuracy_std, 1), colour, hollow=True
        )
        heights.append(100 * row.test_accuracy)
    if known:
        handles.insert(1, _sample("o", COLOURS["grda"], "the paper", hollow=True))
    if known and known.others:
        x, y = ([getattr(row, key) for row in known.others] for key in ("sparsity", "test_accuracy"))
        axes.plot(_left(x), 100 * np.array(y), "+", color=MUTED, markersize=6)
        handles.insert(2, _sample("+", MUTED, "the paper, other schedule"))
        heights += [100 * value for value in y]
    for _, zeros, accuracy, colour in ours:
        heights += _point(axes, zeros, accuracy, colour)
    dense = _dense(groups)
    for level in sorted(dense):
        axes.axhline(100 * level, color=COLOURS["sgd"], linewidth=1.4)
    handles += [_sample("", COLOURS["sgd"], "dense baseline, ours", linestyle="-")] * bool(dense)
    if known and known.twin:
        axes.axhline(100 * known.twin.test_accuracy, color=COLOURS["sgd"], linewidth=1.4, linestyle=DASHED)
        handles.append(_sample("", COLOURS["sgd"], "dense baseline, the paper", linestyle=DASHED))
        dense.add(known.twin.test_accuracy)
    heights += [100 * level for level in dense]
    low, high = range_of([np.array(heights)])
    low = max(low, high - 18) if others else low
    margin = max(0.1 * (high - low), 0.2)
    axes.set_ylim(low - 2 * margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.margins(x=0.06)
    _name(axes, [(float(_left(zeros.mean)), 100 * accuracy.mean, row.label, c) for row, zeros, accuracy, c in ours])
    _zeros_axis(axes)
    _key(axes, handles)
    return figure


@styled
def layer_by_layer(groups: Sequence[Group]) -> Figure | None:
    """Zeros of each layer's weights from the input to the output; ours are points, other methods lines."""
    known = groups[0].known
    layers = known.layers if known else None
    ours = []
    for at, group in enumerate(groups):
        zeros = _layers(group.finished, layers.names if layers else ())
        if len(zeros):
            ours.append((group, colour_of(at), zeros))
    if not ours:
        return None
    methods = layers.methods if layers else {}
    lines = (len(methods) + len(ours) + 1) // 2
    figure = new_figure(HEIGHT + 17 * lines)
    axes = panel(figure, "zeros, % of the layer's weights", right=14, bottom=52 + 17 * lines)
    handles = []
    matched = {f"gRDA, c {c:g}, μ {mu:g}": colour for group, colour, _ in ours for c, mu in [group.runs[0].setting]}
    for (name, zeros), style in zip(methods.items(), _STYLES):
        colour = matched.get(name, MUTED)
        axes.plot(np.arange(1, len(zeros) + 1), 100 * zeros, color=colour, linewidth=1.1, linestyle=style)
        handles.append(_sample("", colour, name.replace("gRDA", "the paper"), linestyle=style))
    for group, colour, zeros in ours:
        joined = "" if methods else "-"
        axes.plot(np.arange(1, len(zeros) + 1), zeros, "o", color=colour, markersize=3.5, linestyle=joined, linewidth=1)
        handles.append(_sample("o", colour, f"ours, {group.label}", linestyle=joined, markersize=4))
    axes.set_ylim(-2, 102)
    axes.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    axes.set_xlim(0, max(len(zeros) for *_, zeros in ours) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=STEPS, integer=True))
    axes.set_xlabel("layer, from the input to the output")
    _key(axes, handles)
    return figure


def _layers(runs: Sequence[Run], names: Sequence[str]) -> np.ndarray:
    """Zeros of each weight of two or more dimensions, percent, in the order of ``names`` where these are all there."""
    zeros: dict[str, list[float]] = {}
    for run in runs:
        for layer in run.summary.get("layers", []):
            if len(layer.get("shape") or (0, 0)) > 1:
                zeros.setdefault(str(layer["name"]), []).append(100 * (1 - layer["nonzeros"] / layer["total"]))
    order = names if names and set(names) <= set(zeros) else zeros
    return np.array([np.mean(zeros[name]) for name in order])


def _left(zeros: Any) -> Any:
    """Where a share of zeros stands on the axis of what is left."""
    return -np.log10(np.maximum(1 - np.asarray(zeros, dtype=float), 1e-6))


def _zeros_axis(axes: Axes) -> None:
    """Round percentages on the axis of what is left; the usual ones, or others where the axis is short."""
    low, high = axes.get_xlim()
    ticks = [tick for tick in _TICKS if low <= _left(tick) <= high]
    if len(ticks) < 2:
        round_ones = MaxNLocator(4, steps=STEPS).tick_values(100 - 100 * 10**-low, 100 - 100 * 10**-high)
        ticks = [tick / 100 for tick in round_ones if tick < 100 and low <= _left(tick / 100) <= high]
    axes.set_xticks(_left(ticks), [decimal(100 * tick, 4) for tick in ticks])
    axes.set_xlim(low, high)
    axes.set_xlabel("zeros, % of all parameters (log scale of what is left)")


def _point(axes: Axes, zeros: Stat, accuracy: Stat, colour: str, *, hollow: bool = False) -> list[float]:
    """A mean with its deviation, and the heights between which they stand."""
    look: dict[str, Any] = {"markersize": 5, "zorder": 4}
    if hollow:
        look = {"markerfacecolor": GROUND, "markersize": 7, "zorder": 3}
    middle, deviation = 100 * accuracy.mean, 100 * (accuracy.std or 0)
    axes.errorbar(_left(zeros.mean), middle, yerr=deviation or None, fmt="o", color=colour, elinewidth=1, **look)
    return [middle - deviation, middle + deviation]


def _sample(marker: str, colour: str, label: str, *, hollow: bool = False, **changed: Any) -> Line2D:
    """A marker, a piece of line, or both, for the key."""
    look: dict[str, Any] = {"linestyle": "", "markersize": 6, "markerfacecolor": GROUND if hollow else colour} | changed
    return Line2D([], [], marker=marker, color=colour, label=label, **look)


def _dense(groups: Sequence[Group]) -> set[float]:
    """The mean test accuracy of the dense baselines of each protocol."""
    levels = set()
    for group in {group.protocol: group for group in groups}.values():
        found = [
            run.summary["sgd"]["test_accuracy"]
            for run in group.twins.values()
            if "test_accuracy" in run.summary.get("sgd", {})
        ]
        levels |= {float(np.mean(found))} if found else set()
    return levels


def _name(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each point's name above the panel's floor, straight below it, where the names before leave room."""
    end = -1e9
    for x, _, name, colour in sorted(points):
        at = axes.transData.transform((x, 0))[0] / axes.figure.dpi * 72
        if at - 3 * len(name) > end:
            note(axes, name, (x, 0), (0, 4), of=("data", "axes fraction"), ha="center", color=colour, fontsize=10)
            end = at + 3 * len(name)


def _key(axes: Axes, handles: Sequence[Line2D]) -> None:
    """What the lines and points are, in two columns below the panel."""
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(-0.1, -44 / height), borderaxespad=0, ncols=2, frameon=False,
        fontsize=10, handlelength=2.2, columnspacing=1.2, labelspacing=0.25,
    )  # fmt: skip
