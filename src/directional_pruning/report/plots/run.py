"""The pictures of a run, drawn from plain records: dictionaries as in ``metrics.jsonl`` and ``summary.json``.

A function returns ``None`` when the records hold nothing to draw. One unit is one CSS pixel at the natural size, so
that texts keep their size when pictures stand side by side on a desk or one below the other on a phone.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ...run_folder import Record
from ..captions import accuracy_of
from ..formatting import NAMES, amount, decimal, percent
from ..published import published
from .style import (
    COLOURS,
    GRID,
    INK,
    MUTED,
    STEPS,
    Curve,
    curves_of,
    cut,
    draw,
    last_epoch,
    new_figure,
    note,
    panel,
    planned_epochs,
    range_of,
    styled,
)

Records = Sequence[Record]


@styled
def loss_figure(metrics: Records) -> Figure | None:
    """Training loss of both networks over epochs, on a log scale.

    >>> figure = loss_figure([{"network": "sgd", "epoch": 1, "train_loss": 0.5}])
    >>> figure.axes[0].get_yscale(), loss_figure([])
    ('log', None)
    """
    curves = curves_of(metrics, "train_loss")
    if not curves:
        return None
    figure = new_figure()
    axes = panel(figure, "training loss, log scale")
    axes.set_yscale("log", nonpositive="mask")
    if range_of(curve.values for curve in curves)[1] <= 0:
        axes.set_ylim(0.1, 1)
    draw(axes, curves, last_epoch(metrics), decimal)
    log_ticks(axes)
    return figure


@styled
def accuracy_figure(metrics: Records, *, paper_protocol: bool = False) -> Figure | None:
    """Validation accuracy of both networks over epochs; test or training accuracy where nothing was held out."""
    kind, key = accuracy_of(metrics, paper_protocol=paper_protocol)
    curves = curves_of(metrics, key, unit=0.01)
    if not curves:
        return None
    figure = new_figure()
    axes = panel(figure, f"{kind} accuracy, %")
    lowest, highest = range_of(curve.values for curve in curves)
    margin = max(0.08 * (highest - lowest), 0.2)
    axes.set_ylim(lowest - margin, highest + margin)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    draw(axes, curves, last_epoch(metrics), lambda value: percent(value / 100))
    return figure


@styled
def sparsity_figure(metrics: Records) -> Figure | None:
    """Share of exact zeros over epochs: of all parameters for both networks, of the prunable weights for gRDA."""
    curves = curves_of(metrics, "sparsity_all", ("sgd",), unit=0.01)
    for name, key in (("gRDA, all", "sparsity_all"), ("prunable", "sparsity_prunable")):
        dashed = key == "sparsity_prunable"
        curves += [c._replace(name=name, dashed=dashed) for c in curves_of(metrics, key, ("grda",), unit=0.01)]
    if not curves:
        return None
    figure = new_figure()
    axes = panel(figure, "parameters that are exactly zero, %")
    axes.set_ylim(-2, 102)
    axes.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    draw(axes, curves, last_epoch(metrics), lambda value: percent(value / 100))
    return figure


@styled
def schedule_figure(metrics: Records) -> Figure | None:
    """Learning rate above, threshold of gRDA below, over the same epochs."""
    rates, thresholds = curves_of(metrics, "lr"), curves_of(metrics, "threshold", ("grda",))
    if len(rates) == 2 and _agree(*rates):
        rates = [max(rates, key=lambda rate: len(rate.epochs))._replace(colour=INK, name="both")]
    parts = [("learning rate", rates), ("threshold g, in units of a weight", thresholds)]
    parts = [(label, curves) for label, curves in parts if curves]
    if not parts:
        return None
    figure = new_figure()
    for place, (label, curves) in enumerate(parts):
        axes = panel(figure, label, place=place, places=len(parts))
        axes.set_ylim(0, 1.08 * range_of(curve.values for curve in curves)[1] or 1)
        axes.yaxis.set_major_locator(MaxNLocator(3, steps=STEPS))
        draw(axes, curves, last_epoch(metrics), decimal)
        lowest = place == len(parts) - 1
        axes.xaxis.label.set_visible(lowest)
        axes.tick_params(axis="x", labelbottom=lowest)
    return figure


@styled
def norm_ratio_figure(metrics: Records, recipe: str = "", c: float = math.nan, mu: float = math.nan) -> Figure | None:
    """The 2-norm of all parameters over their 1-norm; dashed what the paper has for this recipe and setting.

    >>> figure = norm_ratio_figure([{"network": "sgd", "epoch": 1, "norm_ratio": 3.5e-4}])
    >>> figure.axes[0].lines[0].get_ydata().round(6).tolist(), norm_ratio_figure([])
    ([0.35], None)
    """
    curves = curves_of(metrics, "norm_ratio", unit=1e-3)
    if not curves:
        return None
    figure = new_figure()
    axes = panel(figure, "‖w‖₂ / ‖w‖₁ × 1000")
    planned, end, known = planned_epochs(metrics), last_epoch(metrics), published(recipe)
    rows = {"sgd": known.twin, "grda": known.setting(c, mu)} if known else {}
    drawn = {network: row.curves["norm_ratio"] for network, row in rows.items() if row and "norm_ratio" in row.curves}
    for network, (epochs, values) in drawn.items():
        scale = planned / known.epochs if known else 1.0
        curves.append(cut(Curve(COLOURS[network], "", epochs * scale, values * 1000, dashed=True), end))
    highest = range_of(curve.values for curve in curves)[1]
    axes.set_ylim(0, 1.08 * highest or 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    draw(axes, curves, end, lambda value: decimal(value, 3))
    if known and drawn:
        said = "" if planned == known.epochs else f", {known.epochs} epochs"
        note(axes, f"dashed: the paper{said}", (1, 1), (0, 12), ha="right", color=MUTED)
    return figure


@styled
def layers_figure(layers: Records) -> Figure | None:
    """One bar per layer, in the order of the network: the share of zeros, and nonzeros of total in figures.

    >>> figure = layers_figure([{"name": "fc.weight", "total": 10, "nonzeros": 1}])
    >>> float(figure.axes[0].patches[-1].get_width())
    90.0
    """
    if not layers:
        return None
    names = [shortened(str(layer["name"]).removesuffix(".weight")) for layer in layers]
    zeros = [100 * (1 - layer["nonzeros"] / layer["total"]) for layer in layers]
    exact = 100_000 if max(layer["total"] for layer in layers) < 100_000 else 1000
    left, right = 6.6 * max(map(len, names)) + 14, 126
    figure = new_figure(height=19 * len(layers) + 66)
    axes = panel(figure, "zeros, %", left=left, right=right, label_at=left)
    axes.barh(range(len(layers)), 100, height=0.62, color=GRID)
    axes.barh(range(len(layers)), zeros, height=0.62, color=COLOURS["grda"])
    axes.set_xlim(0, 100)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(FixedLocator([0, 50, 100]))
    axes.spines[["left", "bottom"]].set_visible(False)
    on_row: Any = {"of": ("axes fraction", "data"), "va": "center", "color": INK}
    for row, (name, layer) in enumerate(zip(names, layers)):
        note(axes, name, (0, row), (1 - left, 0), **on_row)
        counts = f"{amount(layer['nonzeros'], exact)} / {amount(layer['total'], exact)}"
        note(axes, counts, (1, row), (right - 1, 0), ha="right", **on_row)
    note(axes, "nonzeros / total", (1, 1), (right - 1, 12), ha="right", color=MUTED)
    return figure


@styled
def histogram_figure(histogram: Record) -> Figure | None:
    r"""How many weights lie in each interval, on a log scale; the exact zeros of gRDA are a needle of their own.

    >>> figure = histogram_figure({"edges": [-1, 0, 1], "sgd": [3, 4], "grda": [1, 0], "grda_zeros": 6})
    >>> [text.get_text() for text in figure.axes[0].texts][1]
    '6 weights\nexactly zero'
    """
    edges = np.array(histogram.get("edges") or [], dtype=float)
    networks = [network for network in NAMES if histogram.get(network)]
    if not networks or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        return None
    figure = new_figure()
    axes = panel(figure, "weights per interval, log scale", right=14)
    lowest, highest = 0.6, 1.0  # an interval with one weight still shows
    for network in networks:
        counts = np.nan_to_num(np.array(histogram[network], dtype=float))
        highest = max(highest, counts.max())
        counts = np.maximum(counts, lowest)
        axes.stairs(counts, edges, baseline=lowest, fill=True, color=COLOURS[network], alpha=0.13, linewidth=0)
        axes.stairs(counts, edges, baseline=None, color=COLOURS[network], linewidth=1.4)
    zeros = histogram.get("grda_zeros") or 0
    if zeros > 0:
        axes.vlines(0, lowest, zeros, color=COLOURS["grda"], linewidth=1.6)
        axes.plot(0, zeros, "o", color=COLOURS["grda"], markersize=5)
        # Beside the tip of the needle, unless that is down among the curves.
        highest = max(2.5 * highest, zeros)
        said = f"{amount(zeros)} weights\nexactly zero"
        note(axes, said, (0, highest), (8, 0), of="data", va="center", color=COLOURS["grda"])
    axes.set_yscale("log")
    axes.set_ylim(lowest, 2.5 * highest)
    log_ticks(axes)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("value of the weight")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: decimal(value).replace("-", "\N{MINUS SIGN}")))
    for shift, network in zip((0, -40), reversed(networks)):
        note(axes, NAMES[network], (1, 1), (shift, 12), ha="right", color=COLOURS[network])
    return figure


def _agree(first: Curve, second: Curve) -> bool:
    """Whether two networks had the same numbers in the epochs that both have seen."""
    one, other = (dict(zip(curve.epochs, curve.values)) for curve in (first, second))
    return all(math.isclose(one[epoch], other[epoch]) for epoch in one.keys() & other.keys())


def shortened(name: str, longest: int = 24) -> str:
    """A long name without its middle."""
    return name if len(name) <= longest else f"{name[:9]}…{name[10 - longest :]}"


def log_ticks(axes: Axes) -> None:
    """Some six ticks, also where the axis spans less than a decade."""
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    if decades > 2:
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
    elif decades > 0.8:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.yaxis.set_minor_locator(NullLocator())
    written = FuncFormatter(lambda value, _: f"{value:,.0f}" if 1000 <= value < 1e6 else decimal(value))
    axes.yaxis.set_major_formatter(written)
