"""The loss on the plane through three networks.

Source: the figures of T. Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018,
arXiv 1802.10026.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import torch
from torch import Tensor, nn

from .curve import Curve, on_model
from .network import (
    Batches,
    Loss,
    State,
    Values,
    adapted,
    check_alike,
    check_batches,
    combined,
    device_of,
    gram,
    measure,
    seeded,
)

__all__ = ["Plane", "PlaneValues", "loss_plane"]


@dataclass(frozen=True)
class Plane:
    """The plane through three state dicts, with Euclidean coordinates in the space of the parameters.

    The first network is the origin; the axis u points from it to the second, v is orthogonal to u, on the side of the
    third: with e = third - first, u = (second - first) / |second - first|, v = (e - <e, u> u) / |e - <e, u> u|.
    ``corners`` holds the coordinates of the three, ``((0, 0), (|second - first|, 0), (<e, u>, <e, v>))``.
    """

    first: State
    second: State
    third: State
    corners: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

    def point(self, x: float, y: float) -> dict[str, Tensor]:
        """The state dict ``first + x u + y v``; at the corners exactly the three networks.

        What is not a floating-point number comes from the network with the largest coefficient there.
        """
        (_, _), (width, _), (across, height) = self.corners
        b = y / height
        a = (x - b * across) / width
        return combined((self.first, self.second, self.third), (1 - a - b, a, b))


@dataclass(frozen=True)
class PlaneValues:
    """What :func:`loss_plane` measures: float64 tensors.

    ``x`` and ``y`` ``(size,)`` are the coordinates of the grid; ``loss``, ``error``, ``test_loss`` and ``test_error``
    ``(size, size)`` have a row for each y and a column for each x. ``corners`` ``(3, 2)`` are the three networks,
    ``path`` ``(points, 2)`` is the curve's orthogonal projection on the plane (no rows without a curve).
    """

    x: Tensor
    y: Tensor
    loss: Tensor
    error: Tensor
    test_loss: Tensor
    test_error: Tensor
    corners: Tensor
    path: Tensor
    plane: Plane


def loss_plane(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    first: State,
    second: State,
    third: State,
    *,
    size: int = 29,
    margin: float = 0.2,
    curve: Curve | None = None,
    test_batches: Batches | None = None,
    autocast: torch.dtype | None = None,
    workers: int = 1,
    measured: Sequence[Sequence[float]] = (),
    on_rows: Callable[[list[Values]], None] | None = None,
) -> PlaneValues:
    """Loss and error on a grid in the plane through three networks, batch norm refreshed at every point.

    Args:
        model, loss_fn, batches, test_batches, autocast, measured, on_rows: as in
            :func:`~directional_pruning.landscape.evaluate_curve`; the points run along x first.
        first, second, third: state dicts of the networks, as the two ends and the bend of a curve.
        size: points along each side of the grid.
        margin: what the grid adds on each side, as a fraction of the extent of the three networks.
        curve: its projection on the plane is returned as ``path``.
        workers: points measured at once, by threads, each with a copy of the model. The values stay the same; on a
            CPU it is faster for networks too small for torch's threads.

    Raises:
        ValueError: for networks that do not fit the model, that are equal or on one line, a size below 2, a negative
            margin.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> three = [{"weight": torch.tensor([w])} for w in ([0.0, 0.0], [2.0, 0.0], [1.0, 1.0])]
    >>> data = [(torch.eye(2), torch.zeros(2, 1))]  # loss |w|^2 / 2
    >>> values = loss_plane(model, nn.functional.mse_loss, data, *three, size=2, margin=0.0)
    >>> values.corners.tolist(), values.loss.tolist()
    ([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [0.5, 2.5]])
    """
    for name, value, least in (("size", size, 2), ("workers", workers, 1), ("margin", margin, 0)):
        if not value >= least:
            raise ValueError(f"invalid {name}: {value} (must be >= {least})")
    check_batches(batches, "batches")
    check_batches(test_batches, "test_batches")
    states = [adapted(model, state, name) for state, name in zip((first, second, third), ("first", "second", "third"))]
    names = [name for name, _ in model.named_parameters()]
    plane = plane_through(names, *states)
    path = torch.empty(0, 2, dtype=torch.float64)
    if curve is not None:
        path = _projected(names, plane, on_model(model, curve))

    corners = torch.tensor(plane.corners, dtype=torch.float64)
    x, y = _grid(corners, size, margin)
    rows = [Values(*row) for row in measured[: size * size]]

    def measure_at(i: int, network: nn.Module) -> Values:
        state = plane.point(float(x[i % size]), float(y[i // size]))
        return measure(network, loss_fn, state, batches, test_batches, autocast)

    def add(row: Values) -> None:
        rows.append(row)
        if on_rows is not None:
            on_rows(rows)

    _for_each(range(len(rows), size * size), measure_at, add, model, workers)
    loss, error, test_loss, test_error = torch.tensor(rows, dtype=torch.float64).T.reshape(4, size, size)
    return PlaneValues(x, y, loss, error, test_loss, test_error, corners, path, plane)


def _grid(corners: Tensor, size: int, margin: float) -> tuple[Tensor, Tensor]:
    """The coordinates x and y of the grid around the three networks, each ``(size,)``."""
    low, high = corners.min(0).values, corners.max(0).values
    low, high = low - margin * (high - low), high + margin * (high - low)
    x, y = (torch.linspace(float(low[i]), float(high[i]), size, dtype=torch.float64) for i in (0, 1))
    return x, y


def _for_each(
    indices: Iterable[int],
    compute: Callable[[int, nn.Module], Values],
    on_result: Callable[[Values], None],
    model: nn.Module,
    workers: int,
) -> None:
    """Compute a result for each index in threads, each with a copy of the model; handle the results in order."""
    models: SimpleQueue[nn.Module] = SimpleQueue()
    for _ in range(workers):
        models.put(model if workers == 1 else copy.deepcopy(model))

    def compute_with_model(i: int) -> Values:
        network = models.get()
        try:
            return compute(i, network)
        finally:
            models.put(network)

    # All threads set the seed of the same generator.
    with seeded(0, device_of(model)), ThreadPoolExecutor(workers) as pool:
        try:
            for result in pool.map(compute_with_model, indices):
                on_result(result)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def plane_through(names: Sequence[str], first: State, second: State, third: State) -> Plane:
    """The plane; ``names`` are the entries that count as parameters."""
    check_alike(first=first, second=second, third=third)
    products = gram(names, first, (second, third))
    if not bool(torch.isfinite(products).all()):
        raise ValueError("invalid networks: a weight is not finite, no plane")
    width = float(products[0, 0].sqrt())
    if width == 0:
        raise ValueError("invalid second: it equals first, no plane")
    across = float(products[0, 1]) / width
    height = max(float(products[1, 1]) - across**2, 0.0) ** 0.5
    # A smaller height is rounding error of the weights: its direction means nothing.
    if height <= 1e-5 * max(width, float(products[1, 1].sqrt())):
        raise ValueError("invalid third: it lies on the straight line through first and second, no plane")
    return Plane(first, second, third, ((0.0, 0.0), (width, 0.0), (across, height)))


def _projected(names: Sequence[str], plane: Plane, curve: Curve, points: int = 121) -> Tensor:
    """Coordinates ``(points, 2)`` of the curve's orthogonal projection."""
    (_, _), (width, _), (across, height) = plane.corners
    inner = gram(names, plane.first, (plane.second, plane.third, curve.start, curve.end, curve.bend))[:2, 2:]
    x = inner[0] / width
    y = (inner[1] - across * x) / height
    weights = torch.tensor([curve.coefficients(i / (points - 1)) for i in range(points)], dtype=torch.float64)
    return weights @ torch.stack([x, y], 1)
