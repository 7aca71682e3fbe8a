"""Pictures of the training of several runs of one recipe, beside the paper's: ours solid, the published dashed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from ...run_folder import Run
from ..formatting import decimal, percent
from ..groups import Group
from .run import log_ticks
from .style import (
    COLOURS,
    HEIGHT,
    MUTED,
    SETTINGS,
    STEPS,
    Curve,
    cut,
    draw,
    end_of_axis,
    new_figure,
    note,
    panel,
    range_of,
    styled,
)

Groups = Sequence[Group]
_ZOOM = 0.2  # the share of training that the axis of accuracies need not show


def colour_of(at: int) -> str:
    """The colour of the lines and points of a group, by its place."""
    return SETTINGS[at % len(SETTINGS)]


def in_shares(groups: Groups) -> bool:
    """Whether trainings of different lengths stand in one picture, so that its axis is the share of training."""
    known = groups[0].known
    lengths = {group.config.get("epochs") for group in groups} | ({known.epochs} if known else set())
    return len(lengths) > 1


@styled
def accuracy_over_training(groups: Groups) -> Figure | None:
    """Accuracy over training: on the test data, or on what was held out; the axis starts where a fifth is over."""
    held = {not group.runs[0].paper_protocol for group in groups}
    label = " or ".join(kind for kind, known in (("test", False), ("validation", True)) if known in held)
    curves = _curves(groups, "validation_accuracy", "test_accuracy", 0.01)
    return _over_training(groups, curves, f"{label} accuracy, %", _percent, _zoom, "test" if True in held else "")


@styled
def training_accuracy_over_training(groups: Groups) -> Figure | None:
    """Accuracy on the training data over training, where the paper shows this and not the loss."""
    known = groups[0].known
    shown = {name for row in known.settings for name in row.curves} if known else set()
    if "train_accuracy" not in shown or "train_loss" in shown:
        return None
    curves = _curves(groups, "train_accuracy", "train_accuracy", 0.01)
    return _over_training(groups, curves, "training accuracy, %", _percent, _zoom)


@styled
def loss_over_training(groups: Groups) -> Figure | None:
    """Training loss over training, on a log scale."""

    def log(axes: Axes, curves: Sequence[Curve], end: float) -> None:
        axes.set_yscale("log", nonpositive="mask")
        if range_of(curve.values for curve in curves)[1] <= 0:
            axes.set_ylim(0.1, 1)

    curves = _curves(groups, "train_loss", "train_loss", 1.0)
    return _over_training(groups, curves, "training loss, log scale", decimal, log)


@styled
def zeros_over_training(groups: Groups) -> Figure | None:
    """Share of all parameters that are zero, over training."""

    def whole(axes: Axes, curves: Sequence[Curve], end: float) -> None:
        axes.set_ylim(-2, 102)
        axes.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))

    curves = _curves(groups, "sparsity_all", "sparsity", 0.01, dense=False)
    return _over_training(groups, curves, "zeros, % of all parameters", _percent, whole)


@styled
def norm_ratio_over_training(groups: Groups) -> Figure | None:
    """The 2-norm of all parameters over their 1-norm."""

    def from_zero(axes: Axes, curves: Sequence[Curve], end: float) -> None:
        axes.set_ylim(0, 1.08 * range_of(curve.values for curve in curves)[1] or 1)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))

    curves = _curves(groups, "norm_ratio", "norm_ratio", 1e-3)
    return _over_training(groups, curves, "‖w‖₂ / ‖w‖₁ × 1000", decimal, from_zero)


def _curves(groups: Groups, key: str, published_key: str, unit: float, *, dense: bool = True) -> list[Curve]:
    """Ours with a name, the dense baselines among them, each protocol's once; then the paper's, without one."""
    known, shares = groups[0].known, in_shares(groups)
    curves, theirs = [], {}

    def add(runs: Iterable[Run], network: str, group: Group, colour: str, name: str) -> None:
        epochs, values, band = _over_seeds(runs, network, key)
        if len(epochs):
            scale = 100 / group.config["epochs"] if shares else 1.0
            sides = (band[0] / unit, band[1] / unit) if band else None
            curves.append(Curve(colour, name, epochs * scale, values / unit, band=sides))

    for protocol in dict.fromkeys(group.protocol for group in groups) if dense else ():
        group = next(group for group in groups if group.protocol == protocol)
        add(group.twins.values(), "sgd", group, COLOURS["sgd"], ", ".join(filter(None, ("dense", protocol))))
    for at, group in enumerate(groups):
        add(group.runs, "grda", group, colour_of(at), group.label)
        if group.row is not None:
            theirs.setdefault((group.row.c, group.row.mu), (group.row, colour_of(at)))
    if not curves or known is None:
        return curves
    rows = [*((known.twin, COLOURS["sgd"]),) * (dense and known.twin is not None), *theirs.values()]
    for row, colour in rows:
        if row is not None and published_key in row.curves:
            epochs, values = row.curves[published_key]
            scale = 100 / known.epochs if shares else 1.0
            curves.append(Curve(colour, "", epochs * scale, values / unit, dashed=True))
    return curves


def _over_seeds(runs: Iterable[Run], network: str, key: str) -> tuple[np.ndarray, np.ndarray, Any]:
    """Epochs, the mean over the runs that have got furthest, and the lowest and highest of them if there are two."""
    series = [{x["epoch"]: x[key] for x in run.of(network) if key in x} for run in runs]
    furthest = max((max(line) for line in series if line), default=0)
    series = [line for line in series if line and max(line) == furthest]
    epochs = sorted(set.intersection(*map(set, series))) if series else []
    values = np.array([[line[epoch] for epoch in epochs] for line in series]).reshape(len(series), len(epochs))
    band = (values.min(axis=0), values.max(axis=0)) if len(series) > 1 else None
    return np.array(epochs, dtype=float), values.mean(axis=0) if len(series) else np.array([]), band


def _over_training(
    groups: Groups,
    curves: list[Curve],
    label: str,
    write: Callable[[float], str],
    prepare: Callable[[Axes, Sequence[Curve], float], None],
    of: str = "",
) -> Figure | None:
    """One picture over training; ``prepare`` sets the other axis, ``of`` says what the paper's curves are of."""
    if not curves:
        return None
    names = [curve.name for curve in curves if curve.name]
    known, shares = groups[0].known, in_shares(groups)
    figure = new_figure(max(HEIGHT, 90 + 28 * len(names)))
    axes = panel(figure, label, right=max(86, 6.6 * max(map(len, names)) + 16))
    reached = max(curve.epochs[-1] for curve in curves if curve.name)
    end = end_of_axis(100.0 if shares else float(groups[0].config.get("epochs") or reached), reached)
    curves = [cut(curve, end) for curve in curves]
    prepare(axes, curves, end)
    draw(axes, curves, end, write)
    if axes.get_yscale() == "log":
        log_ticks(axes)
    if shares:
        ours = sorted({int(group.config.get("epochs") or 0) for group in groups})
        said = f"ours {' and '.join(map(str, ours))} epochs" + (f", the paper {known.epochs}" if known else "")
        axes.set_xlabel(f"share of training, % ({said})")
    if any(curve.dashed for curve in curves):
        note(axes, f"dashed: the paper{of and ', ' + of}", (1, 1), (0, 12), ha="right", color=MUTED)
    return figure


def _zoom(axes: Axes, curves: Sequence[Curve], end: float) -> None:
    """Show what comes after the first part of training, where curves that end within a point still differ."""
    late = [curve.values[curve.epochs >= _ZOOM * end] for curve in curves]
    late = late if any(len(part) for part in late) else [curve.values for curve in curves]
    lowest, highest = range_of(late)
    margin = max(0.08 * (highest - lowest), 0.2)
    axes.set_ylim(lowest - margin, highest + margin)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))


def _percent(value: float) -> str:
    return percent(value / 100)
