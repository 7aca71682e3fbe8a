"""Figures of the weights at the end of a run: zeros of each layer, histogram; None where nothing is recorded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from ...run_folder import Record
from ..formatting import NAMES, amount, shortened
from .axes import log_ticks, note, panel, round_ticks
from .style import COLOURS, GRID, INK, MUTED, new_figure, styled


@styled
def layers_figure(layers: Sequence[Record]) -> Figure | None:
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
    axes = panel(figure, "", left=left, right=right)
    note(axes, "zeros, %", (0, 1), (0, 12), color=MUTED)
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
    r"""How many weights lie in each interval, on a log scale; the exact zeros of gRDA are a vertical line.

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
        # Beside the top of that line, unless it is down among the curves.
        highest = max(2.5 * highest, zeros)
        text = f"{amount(zeros)} weights\nexactly zero"
        note(axes, text, (0, highest), (8, 0), of="data", va="center", color=COLOURS["grda"])
    axes.set_yscale("log")
    axes.set_ylim(lowest, 2.5 * highest)
    log_ticks(axes)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("value of the weight")
    round_ticks(axes.xaxis, 6)
    for shift, network in zip((0, -40), reversed(networks)):
        note(axes, NAMES[network], (1, 1), (shift, 12), ha="right", color=COLOURS[network])
    return figure
