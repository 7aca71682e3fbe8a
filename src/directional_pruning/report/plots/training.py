"""Figures of the epochs: for one run, or for groups of runs of one recipe beside the paper's curves, dashed."""

import math
from collections.abc import Callable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...run_folder import NETWORKS
from ..formatting import decimal, percent
from ..groups import Group, watched_accuracy
from .axes import note, panel, percent_axis, range_of, round_ticks
from .curves import Groups, draw_curves, end_of_axis, group_curves, published_curves
from .style import HEIGHT, INK, MUTED, new_figure, styled

_EARLY = 0.2  # the part of training whose accuracies need not be in a figure of several groups


class Panel(NamedTuple):
    """How a number of the epochs is drawn."""

    key: str
    published_key: str
    label: str
    unit: float
    set_axis: Callable[[Axes, float, float], None]
    """Sets the vertical axis for the lowest and the highest value."""

    def text(self, value: float) -> str:
        """A value in units of the panel."""
        return percent(value / 100) if self.unit == 0.01 else decimal(value)


def _log_axis(axes: Axes, lowest: float, highest: float) -> None:
    axes.set_yscale("log", nonpositive="mask")
    if highest <= 0:
        axes.set_ylim(0.1, 1)


def _axis_around(axes: Axes, lowest: float, highest: float) -> None:
    margin = max(0.08 * (highest - lowest), 0.2)
    axes.set_ylim(lowest - margin, highest + margin)
    round_ticks(axes.yaxis, 6)


def _axis_from_zero(axes: Axes, lowest: float, highest: float) -> None:
    axes.set_ylim(0, 1.08 * highest or 1)
    round_ticks(axes.yaxis, 5)


PANELS = {
    "loss": Panel("train_loss", "train_loss", "training loss, log scale", 1.0, _log_axis),
    "accuracy": Panel("validation_accuracy", "test_accuracy", "accuracy, %", 0.01, _axis_around),
    "training_accuracy": Panel("train_accuracy", "train_accuracy", "training accuracy, %", 0.01, _axis_around),
    "sparsity": Panel("sparsity_all", "sparsity", "exact zeros, %", 0.01, lambda axes, *_: percent_axis(axes)),
    "norm_ratio": Panel("norm_ratio", "norm_ratio", "‖w‖₂ / ‖w‖₁ × 1000", 1e-3, _axis_from_zero),
}


@styled
def training_figure(name: str, groups: Groups, *, single: bool = False) -> Figure | None:
    """Draw one of :data:`PANELS` over training; None where the records do not have its number.

    Trainings of different lengths share an axis in percent of training. The ``single`` run of a page has its epochs as
    the axis, its prunable weights beside all parameters, and of the paper's curves only the ratio of norms.
    """
    data = watched_accuracy(groups)
    shown = PANELS["training_accuracy" if (name, data) == ("accuracy", "training") else name]
    if shown is PANELS["accuracy"]:
        shown = shown._replace(label=f"{data} accuracy, %")
    paper, lengths = groups[0].paper, {group.epochs for group in groups}
    if paper and not single:
        lengths.add(paper.epochs)
    length = groups[0].epochs if len(lengths) == 1 else 100.0
    networks = ("grda",) if name == "sparsity" and not single else NETWORKS
    curves = group_curves(groups, shown.key, shown.unit, length, networks)
    if name == "sparsity" and single:
        curves = [curve._replace(name="gRDA, all") if curve.name == "gRDA" else curve for curve in curves]
        prunable = group_curves(groups, "sparsity_prunable", shown.unit, length, ("grda",))
        curves += [curve._replace(name="prunable", dashed=True) for curve in prunable]
    if not curves:
        return None
    end = end_of_axis(curves, length)
    labels = [curve.name for curve in curves]
    if name == "norm_ratio" or not single:
        curves += published_curves(groups, shown.published_key, shown.unit, length, end, networks)
    figure = new_figure(max(HEIGHT, 90 + 28 * len(labels)))
    axes = panel(figure, shown.label, right=max(86, 6.6 * max(map(len, labels)) + 16))
    early = _EARLY * end if shown.set_axis is _axis_around and not single else 0.0
    late = [curve.values[curve.epochs >= early] for curve in curves]
    shown.set_axis(axes, *range_of(late if any(map(len, late)) else [curve.values for curve in curves]))
    draw_curves(axes, curves, end, shown.text)
    if len(lengths) > 1:
        ours = " and ".join(f"{epochs:.0f}" for epochs in sorted({group.epochs for group in groups}))
        others = f", the paper {paper.epochs}" if paper else ""
        axes.set_xlabel(f"share of training, % (ours {ours} epochs{others})")
    if paper and len(curves) > len(labels):
        parts = ["dashed: the paper"]
        parts += ["test"] * (name == "accuracy" and data != "test")
        parts += [f"{paper.epochs} epochs"] * (single and paper.epochs != length)
        note(axes, ", ".join(parts), (1, 1), (0, 12), ha="right", color=MUTED)
    return figure


@styled
def schedule_figure(group: Group) -> Figure | None:
    """Learning rate above, threshold of gRDA below, over the same epochs."""
    rates = group_curves([group], "lr", 1.0, group.epochs, NETWORKS)
    thresholds = group_curves([group], "threshold", 1.0, group.epochs, ("grda",))
    first, last = (dict(zip(rates[at].epochs, rates[at].values)) if rates else {} for at in (0, -1))
    if len(rates) == 2 and all(math.isclose(first[epoch], last[epoch]) for epoch in first.keys() & last.keys()):
        rates = [max(rates, key=lambda rate: len(rate.epochs))._replace(colour=INK, name="both")]
    parts = [("learning rate", rates), ("threshold g, in units of a weight", thresholds)]
    parts = [(label, curves) for label, curves in parts if curves]
    if not parts:
        return None
    figure = new_figure()
    for place, (label, curves) in enumerate(parts):
        axes = panel(figure, label, place=place, of=len(parts))
        axes.set_ylim(0, 1.08 * range_of(curve.values for curve in curves)[1] or 1)
        round_ticks(axes.yaxis, 3)
        draw_curves(axes, curves, end_of_axis(rates + thresholds, group.epochs), decimal)
        lowest = place == len(parts) - 1
        axes.xaxis.label.set_visible(lowest)
        axes.tick_params(axis="x", labelbottom=lowest)
    return figure
