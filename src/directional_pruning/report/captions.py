"""The pictures of a run, each with a plain sentence that says what to see, and one for those who cannot see it."""

import math
from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from . import figures
from .records import Run
from .wording import THE, amount, decimal, percent


class Picture(NamedTuple):
    """A figure with its file name, its caption and its text alternative."""

    name: str
    figure: Figure
    caption: str
    alternative: str


def training_pictures(run: Run) -> list[Picture]:
    """What happened over the epochs."""
    held_out = any("validation_accuracy" in record for record in run.metrics)
    accuracy, data = ("validation_accuracy", "validation") if held_out else ("train_accuracy", "training")
    return _drawn(
        (
            "loss",
            figures.loss_figure(run.metrics),
            "The lower the curve, the better the network fits its training data.",
            f"Training loss over epochs, on a log scale. {_ends(run, 'train_loss', decimal)}",
        ),
        (
            "accuracy",
            figures.accuracy_figure(run.metrics),
            f"Where the curves end together, pruning cost no accuracy (share of correct answers on the {data} data).",
            f"Accuracy on the {data} data over epochs. {_ends(run, accuracy, percent)}",
        ),
        (
            "sparsity",
            figures.sparsity_figure(run.metrics),
            "gRDA empties the network while it trains: zeros among all parameters, and among those it may prune.",
            f"Share of all parameters that are exactly zero, over epochs. {_ends(run, 'sparsity_all', percent)}",
        ),
        (
            "schedule",
            figures.schedule_figure(run.metrics),
            "The learning rate sets the pace; the threshold, below which a weight is set to zero, never falls.",
            f"Learning rate and threshold over epochs. Threshold of {_ends(run, 'threshold', decimal, ('grda',))}",
        ),
    )


def weight_pictures(run: Run) -> list[Picture]:
    """What the weights look like in the end."""
    layers = run.summary.get("layers") or []
    histogram = run.summary.get("histogram") or {}
    bars = (f"{layer['name']} {percent(1 - layer['nonzeros'] / layer['total'])}" for layer in figures.countable(layers))
    zeros = histogram.get("grda_zeros", 0.0)
    needle = (
        f" The {amount(zeros)} exact zeros of gRDA are the needle, counted apart from its curve." if zeros > 0 else ""
    )
    return _drawn(
        (
            "layers",
            figures.layers_figure(layers),
            "Where gRDA pruned: the longer the bar, the emptier the layer; the input is at the top, the output below.",
            f"Share of zeros in each prunable layer: {', '.join(bars)}.",
        ),
        (
            "histogram",
            figures.histogram_figure(histogram),
            f"How large the weights of both networks are.{needle}",
            f"Histogram of the weights of both networks, on a log scale.{needle}",
        ),
    )


def _drawn(*pictures: tuple[str, Figure | None, str, str]) -> list[Picture]:
    return [Picture(name, figure, *texts) for name, figure, *texts in pictures if figure is not None]


def _ends(run: Run, key: str, write: Callable[[float], str], networks: tuple[str, ...] = ("grda", "sgd")) -> str:
    """Where the curves of a picture end, in words."""
    last = {network: [record for record in run.of(network) if key in record][-1:] for network in networks}
    ends = [f"{THE[network]} at epoch {end['epoch']}: {write(end[key])}" for network in last for end in last[network]]
    return "; ".join(ends) + "."


def breaks(run: Run) -> str:
    """A sentence for each network whose loss was once not a finite number."""
    sentences = ""
    for network, name in THE.items():
        losses = [(record["epoch"], record["train_loss"]) for record in run.of(network) if "train_loss" in record]
        lost = [epoch for epoch, loss in losses if math.isnan(loss)]
        if lost:
            for_good = all(math.isnan(loss) for epoch, loss in losses if epoch > lost[0])
            when = f"From epoch {lost[0]} on" if for_good else f"In epoch {lost[0]}"
            sentences += f" {when} the training loss of {name} was not a finite number."
    return sentences
