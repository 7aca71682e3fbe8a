"""Curves between two networks, with one bend, and the loss on them.

Source: T. Garipov, P. Izmailov, D. Podoprikhin, D. Vetrov, A. G. Wilson, Loss Surfaces, Mode Connectivity, and Fast
Ensembling of DNNs, NeurIPS 2018, arXiv 1802.10026.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .network import Batches, Loss, State, Values, adapted, check_alike, check_batches, combined, gram, measure

__all__ = ["BezierCurve", "Curve", "CurveValues", "PolygonalChain", "evaluate_curve", "straight_line"]


@dataclass(frozen=True)
class BezierCurve:
    """The quadratic Bezier curve between two state dicts: (1 - t)^2 start + 2 t (1 - t) bend + t^2 end.

    The three have the same names and shapes. What is not a floating-point number (counters) comes from the state dict
    with the largest coefficient at t.

    Raises:
        ValueError: for state dicts whose names or shapes differ, naming the first.

    >>> curve = BezierCurve({"w": torch.tensor(0.0)}, {"w": torch.tensor(2.0)}, {"w": torch.tensor(5.0)})
    >>> [float(curve.point(t)["w"]) for t in (0, 0.5, 1)]
    [0.0, 3.0, 2.0]
    """

    start: State
    end: State
    bend: State

    def __post_init__(self) -> None:
        check_alike(start=self.start, end=self.end, bend=self.bend)

    def coefficients(self, t: float) -> tuple[float, float, float]:
        """The weights of start, end and bend at ``t``; their sum is 1."""
        return (1 - t) ** 2, t**2, 2 * t * (1 - t)

    def point(self, t: float) -> dict[str, Tensor]:
        """The state dict at ``t`` in [0, 1]; at 0 and 1 exactly the ends."""
        return combined((self.start, self.end, self.bend), self.coefficients(t))


@dataclass(frozen=True)
class PolygonalChain:
    """The straight lines from start to bend (t in [0, 1/2]) and from bend to end (t in [1/2, 1]).

    Otherwise as :class:`BezierCurve`.

    >>> chain = PolygonalChain({"w": torch.tensor(0.0)}, {"w": torch.tensor(2.0)}, {"w": torch.tensor(5.0)})
    >>> [float(chain.point(t)["w"]) for t in (0, 0.25, 0.5, 1)]
    [0.0, 2.5, 5.0, 2.0]
    """

    start: State
    end: State
    bend: State

    def __post_init__(self) -> None:
        check_alike(start=self.start, end=self.end, bend=self.bend)

    def coefficients(self, t: float) -> tuple[float, float, float]:
        """The weights of start, end and bend at ``t``; their sum is 1."""
        return max(1 - 2 * t, 0), max(2 * t - 1, 0), 1 - abs(1 - 2 * t)

    def point(self, t: float) -> dict[str, Tensor]:
        """The state dict at ``t`` in [0, 1]; at 0 and 1 exactly the ends, at 1/2 the bend."""
        return combined((self.start, self.end, self.bend), self.coefficients(t))


Curve = BezierCurve | PolygonalChain


def straight_line(start: State, end: State) -> BezierCurve:
    """The curve whose bend is half-way between the ends: the straight line, at constant speed.

    >>> line = straight_line({"w": torch.tensor(0.0)}, {"w": torch.tensor(2.0)})
    >>> [float(line.point(t)["w"]) for t in (0.25, 0.75)]
    [0.5, 1.5]
    """
    check_alike(start=start, end=end)
    return BezierCurve(start, end, combined((start, end), (0.5, 0.5)))


@dataclass(frozen=True)
class CurveValues:
    """What :func:`evaluate_curve` measures at each of n points: float64 tensors ``(n,)``.

    ``length`` is the arc length from the start in the space of the parameters. Errors are fractions of wrong answers;
    what cannot be measured is NaN.
    """

    t: Tensor
    length: Tensor
    loss: Tensor
    error: Tensor
    test_loss: Tensor
    test_error: Tensor


def evaluate_curve(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    curve: Curve,
    *,
    points: int = 61,
    test_batches: Batches | None = None,
    autocast: torch.dtype | None = None,
    measured: Sequence[Sequence[float]] = (),
    on_rows: Callable[[list[Values]], None] | None = None,
) -> CurveValues:
    """Loss, error and length on a curve, at evenly spaced t from 0 to 1.

    The network is in evaluation mode, without dropout. The running statistics of batch norm are computed anew at every
    point, the ends included, as the means over all of ``batches``. Interpolated statistics would be wrong.

    Args:
        model, loss_fn, autocast: as in :func:`~directional_pruning.landscape.fit_curve`.
        batches: the training data, read several times for each point: best without augmentation.
        test_batches: data on which loss and error are measured too.
        measured: the last rows that ``on_rows`` received, to resume from there.
        on_rows: called after each point with the rows of all points so far.

    Returns:
        The values; an error is the fraction of wrong answers where the outputs are scores ``(n, classes, ...)`` and the
        targets integers ``(n, ...)``, NaN otherwise. A loss that is not finite stays so.

    Raises:
        ValueError: for fewer than 2 points or a curve that does not fit the model.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> line = straight_line({"weight": torch.ones(1, 1)}, {"weight": torch.full((1, 1), 3.0)})
    >>> data = [(torch.ones(2, 1), torch.ones(2, 1))]
    >>> values = evaluate_curve(model, nn.functional.mse_loss, data, line, points=3)
    >>> values.loss.tolist(), values.length.tolist()
    ([0.0, 1.0, 4.0], [0.0, 1.0, 2.0])
    """
    if points < 2:
        raise ValueError(f"invalid points: {points} (must be >= 2)")
    check_batches(batches, "batches")
    check_batches(test_batches, "test_batches")
    curve = on_model(model, curve)
    steps = [i / (points - 1) for i in range(points)]
    rows = [Values(*row) for row in measured[:points]]
    for t in steps[len(rows) :]:
        rows.append(measure(model, loss_fn, curve.point(t), batches, test_batches, autocast))
        if on_rows is not None:
            on_rows(rows)
    values = torch.tensor(rows, dtype=torch.float64).T
    return CurveValues(torch.tensor(steps, dtype=torch.float64), _lengths(model, curve, steps), *values)


def on_model(model: nn.Module, curve: Curve) -> Curve:
    """The curve with the device and types of the model, and one entry for tensors that it ties."""
    ends = adapted(model, curve.start, "start"), adapted(model, curve.end, "end")
    return type(curve)(*ends, adapted(model, curve.bend, "bend"))


def _lengths(model: nn.Module, curve: Curve, steps: Sequence[float]) -> Tensor:
    """Lengths of the polygon through the points: from the start to each."""
    names = [name for name, _ in model.named_parameters()]
    products = gram(names, curve.start, (curve.end, curve.bend))
    # Two points differ by a combination of end - start and bend - start.
    chords = torch.tensor([curve.coefficients(t)[1:] for t in steps], dtype=torch.float64).diff(dim=0)
    chord = ((chords @ products) * chords).sum(1).clamp(min=0).sqrt()
    return torch.cat([torch.zeros(1, dtype=torch.float64), chord.cumsum(0)])
