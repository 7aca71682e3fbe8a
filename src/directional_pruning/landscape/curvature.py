"""Curvature at a network: the top eigenspace of its Hessian, and the fraction of a direction inside it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .hessian import hessian_operator
from .network import Batches, Loss, device_of

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse.linalg import LinearOperator

__all__ = ["Eigenspace", "subspace_fraction", "top_eigenpairs", "top_eigenspace"]


@dataclass(frozen=True)
class Eigenspace:
    """Eigenpairs, largest first; unpacks into ``values, vectors``.

    Attributes:
        values: ``(k,)``.
        vectors: ``(k, d)``, orthonormal rows.
        residuals: ``||H v - value v||`` of each pair, ``(k,)``, from k more products.
        products: how many products with H Lanczos took, without the k for the residuals.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.values, self.vectors))


def top_eigenspace(model: nn.Module, loss_fn: Loss, batches: Batches, k: int, *, seed: int = 0) -> Eigenspace:
    """The k largest eigenvalues of the Hessian of the mean loss and their eigenvectors, by Lanczos.

    Largest by value, not by magnitude: the directions in which the loss rises most.

    Args:
        model, loss_fn, batches: as for :func:`hessian_product`.
        k: how many, in 1..d.
        seed: of the first vector. The same seed gives the same result, and every seed the same space.

    Returns:
        An :class:`Eigenspace` on the model's device and in its dtype: ``values, vectors = top_eigenspace(...)``.

    Raises:
        TypeError, ValueError: as :func:`hessian_product`; ValueError for k out of range.
        ModuleNotFoundError: where SciPy is not installed.

    >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1))]
    >>> values, vectors = top_eigenspace(nn.Linear(2, 1, bias=False), nn.functional.mse_loss, data, k=1)
    >>> round(values.item(), 5), [round(abs(x), 5) for x in vectors[0].tolist()]
    (9.0, [0.0, 1.0])
    """
    space, device = top_eigenpairs(hessian_operator(model, loss_fn, batches), k, seed=seed), device_of(model)
    return Eigenspace(space.values.to(device), space.vectors.to(device), space.residuals.to(device), space.products)


def top_eigenpairs(operator: "LinearOperator", k: int, *, seed: int = 0, tolerance: float | None = None) -> Eigenspace:
    """The k largest eigenpairs of any symmetric SciPy operator, by implicitly restarted Lanczos (``eigsh``).

    Args:
        operator: symmetric, ``(d, d)``, of float32 or float64.
        k: how many, in 1..d.
        seed: of the first vector.
        tolerance: of the residuals, relative to their eigenvalue; by default eps^(2/3), that is 2e-5 in float32, where
            a product is not exact enough for more, and 4e-11 in float64.

    Returns:
        An :class:`Eigenspace` on the CPU.

    Raises:
        ValueError: for k out of range.
    """
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, eigsh

    d = operator.shape[0]
    if not 1 <= k <= d:
        raise ValueError(f"invalid k: {k} (must be in 1..{d})")
    products = 0

    def multiply(v: "np.ndarray") -> "np.ndarray":
        nonlocal products
        products += 1
        return operator.matvec(v)

    make: Any = LinearOperator
    counted = make(operator.shape, matvec=multiply, dtype=operator.dtype)
    if 2 * k >= d:  # too few dimensions for Lanczos
        dense = counted @ np.eye(d, dtype=operator.dtype)
        values, vectors = np.linalg.eigh((dense + dense.T) / 2)
        values, vectors = values[d - k :], vectors[:, d - k :]
    else:
        start = np.random.default_rng(seed).standard_normal(d).astype(operator.dtype)
        eps = float(np.finfo(start.dtype).eps)
        values, vectors = eigsh(counted, k, which="LA", v0=start, tol=tolerance or eps ** (2 / 3))
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order].T
    residuals = [np.linalg.norm(operator.matvec(v) - value * v) for value, v in zip(values, vectors)]
    return Eigenspace(torch.tensor(values), torch.tensor(vectors), torch.tensor(np.array(residuals)), products)


def subspace_fraction(direction: Tensor, vectors: Tensor) -> float:
    """The fraction ``||P x|| / ||x||`` of a direction in the subspace that orthonormal rows span.

    For a random direction it is about ``sqrt(k / d)``: its square averages k/d exactly. Compare the fraction with that.

    Args:
        direction: x, flat ``(d,)``, not zero.
        vectors: ``(k, d)``, orthonormal rows, as :func:`top_eigenspace` gives them.

    Raises:
        ValueError: for a direction of zero or of another length, or rows that are not orthonormal.

    >>> subspace_fraction(torch.tensor([3.0, 4.0, 0.0]), torch.tensor([[0.0, 1.0, 0.0]]))
    0.8
    """
    if vectors.ndim != 2 or direction.shape != vectors.shape[1:]:
        shapes = f"{tuple(direction.shape)} with vectors of shape {tuple(vectors.shape)}"
        raise ValueError(f"invalid direction: shape {shapes} (must be (d,) with (k, d))")
    gram = vectors @ vectors.T
    error = float((gram - torch.eye(len(gram)).to(gram)).abs().max()) if len(gram) else 0.0
    if not error < 1e-3:
        raise ValueError(f"invalid vectors: rows off orthonormal by {error:.2g} (must be < 0.001)")
    length = float(direction.double().norm())
    if not 0 < length < math.inf:
        raise ValueError(f"invalid direction: of norm {length} (must be > 0 and finite)")
    return float((vectors @ direction.to(vectors)).double().norm()) / length
