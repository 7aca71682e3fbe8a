"""The figure of a search: the validation metric against zeros, the dense network, the drop and the choice."""

import math

import numpy as np
from matplotlib.figure import Figure

from ..tuned import Tuned
from .axes import note, panel, range_of, round_numbers
from .style import COLOURS, DASHED, GROUND, HEIGHT, MUTED, new_figure, styled
from .tradeoff import key_below, zeros_axis, zeros_position

CUT = 12
"""What loses more than so many times the drop is below the figure: else the part that matters would be flat."""


@styled
def tuning_figure(tuned: Tuned) -> Figure | None:
    """Targets that held are filled, the others hollow; None where nothing is trained.

    The zeros are on an axis where halving what is left is always the same distance.
    """
    seen = [each for each in tuned.tried if math.isfinite(each.value)]
    if not seen or not math.isfinite(tuned.dense):
        return None
    percents = tuned.metric == "accuracy"
    unit = 100 if percents else 1
    figure = new_figure(HEIGHT + 34)
    axes = panel(figure, f"validation {tuned.metric}{', %' * percents}", right=22, bottom=86)
    cut = CUT * tuned.limit or math.inf
    limit = unit * tuned.dense - tuned.limit if percents else tuned.dense + tuned.limit
    zeros, values = zeros_position([each.zeros for each in seen]), [unit * each.value for each in seen]
    axes.plot(zeros, values, color=COLOURS["grda"], linewidth=1.2)
    axes.axhline(unit * tuned.dense, color=COLOURS["sgd"], linewidth=1.4, label="dense baseline")
    axes.axhline(limit, color=MUTED, linewidth=1.2, linestyle=DASHED, label=f"{tuned.allowed} worse")
    for held, fill, label in ((True, COLOURS["grda"], "within the drop"), (False, GROUND, "not within")):
        points = [(x, y) for x, y, each in zip(zeros, values, seen) if each.held == held]
        look = {"color": COLOURS["grda"], "markerfacecolor": fill, "markersize": 5, "label": label}
        axes.plot(*np.array(points).reshape(-1, 2).T, "o", **look)
    low, high = range_of([np.array([*values, unit * tuned.dense, limit])])
    low, high = (max(low, 100 * tuned.dense - cut), high) if percents else (low, min(high, tuned.dense + cut))
    margin = 0.12 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(round_numbers(6))
    axes.margins(x=0.08)
    if tuned.chosen in seen:
        at = seen.index(tuned.chosen)
        axes.plot(zeros[at], values[at], "o", color=COLOURS["grda"], markerfacecolor="none", markersize=11)
        note(axes, "chosen", (zeros[at], values[at]), (0, 11), of="data", ha="center", color=COLOURS["grda"])
    zeros_axis(axes, "zeros, % of the pruned weights (log scale of the nonzeros)")
    key_below(axes)
    return figure
