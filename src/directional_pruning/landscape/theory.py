"""Directional pruning: the scores, the closed form, the law at finite time and the threshold of a path.

Notation of the paper: w, weights of a minimiser found by SGD; P0, the orthogonal projection on the flat subspace, the
null space of the Hessian H there; s, scores; lam, strength; g, threshold of gRDA after n updates at rate lr; t = n lr.

Source: S.-K. Chao, Z. Wang, Y. Xing, G. Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["complement_projection", "directional_prune", "directional_scores", "finite_time_scores", "path_threshold"]


def directional_scores(weights: Tensor, flat_projection: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
    """How fast each weight may shrink in flat directions: ``s = sign(w) * (P0 sign(w))``.

    The scores sum to ``||P0 sign(w)||^2``. A weight with a positive score shrinks, one with a negative score grows. As
    long as no weight has reached zero, the network moves in flat directions only.

    Args:
        weights: w, flat, of floating point; a weight of zero scores zero.
        flat_projection: P0 as a symmetric matrix ``(d, d)`` or a function of a vector ``(d,)``, for instance
            :func:`complement_projection`.

    Raises:
        ValueError: for weights that are not a flat vector of floating point, or a projection of another size.

    Example:
        A loss that depends on ``w[0] + w[1]`` alone is flat along (1, -1). Two positive weights may not shrink, two
        weights of opposite sign may.

        >>> flat = torch.tensor([[0.5, -0.5], [-0.5, 0.5]])
        >>> directional_scores(torch.tensor([2.0, 1.0]), flat).tolist()
        [0.0, 0.0]
        >>> directional_scores(torch.tensor([2.0, -1.0]), flat).tolist()
        [1.0, 1.0]
    """
    _check_vector("weights", weights)
    signs = weights.sign()
    projected = flat_projection @ signs if isinstance(flat_projection, Tensor) else flat_projection(signs)
    if projected.shape != weights.shape:
        raise ValueError(f"invalid flat_projection: gives shape {tuple(projected.shape)}, not {tuple(weights.shape)}")
    return signs * projected


def directional_prune(weights: Tensor, scores: Tensor, lam: float) -> Tensor:
    """The directionally pruned weights ``argmin_x 1/2 ||w - x||^2 + lam * sum_j s_j |x_j|``, in closed form.

        x_j = sign(w_j) * max(|w_j| - lam * s_j, 0)

    which also holds for negative scores. It is meant for a small ``lam``: with many zeros the loss is no lower than
    that of magnitude pruning.

    Args:
        weights: w, flat, of floating point.
        scores: s, of the shape of the weights.
        lam: strength, in units of a weight, >= 0; for gRDA its threshold g.

    Returns:
        The pruned weights, as a new tensor; a pruned weight is exactly ``+0.0``.

    Raises:
        ValueError: for a negative or infinite ``lam``, or tensors that do not fit.

    >>> directional_prune(torch.tensor([3.0, -0.5, -2.0]), torch.tensor([1.0, 1.0, -1.0]), 1.0).tolist()
    [2.0, 0.0, -3.0]
    """
    _check_vector("weights", weights)
    if scores.shape != weights.shape:
        raise ValueError(f"invalid scores: shape {tuple(scores.shape)} (must be {tuple(weights.shape)})")
    if not 0 <= lam < math.inf:
        raise ValueError(f"invalid lam: {lam} (must be >= 0)")
    # Adding zero turns -0.0 into +0.0.
    return weights.sign() * (weights.abs() - lam * scores).clamp_(min=0) + 0.0


def finite_time_scores(weights: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, time: float, mu: float) -> Tensor:
    """The scores that gRDA has reached at time ``t = n * lr``, for a quadratic loss and constant signs.

        s(t) = sign(w) * [M(1; 1 + mu; -H t) sign(w)]

    where M is Kummer's function 1F1 applied to the eigenvalues of H. ``M = 1`` in flat directions and about
    ``mu / (h t)`` in a direction of curvature h, so that s(t) tends to :func:`directional_scores`. A direction
    with ``h t << mu`` counts as flat. After n steps at one rate gRDA is at ``directional_prune(w, s(t), lam)`` with
    ``lam = c * lr^(1/2) * t^mu``, its threshold.

    Args:
        weights: w, flat ``(d,)``, of floating point.
        eigenvalues: h, ``(k,)``, of the Hessian.
        eigenvectors: ``(k, d)``, an orthonormal row for each eigenvalue. Their complement counts as flat.
        time: t, the sum of the learning rates of the steps, >= 0.
        mu: growth of the threshold, in (0, 1].

    Returns:
        s(t), of the shape and dtype of the weights.

    Raises:
        ValueError: for a value out of range, shapes that do not fit, or a negative eigenvalue at which the factor
            is not finite.
        ModuleNotFoundError: where SciPy is not installed.

    Example:
        After a long time the score is 0 in a steep direction and 1 in a flat one.

        >>> w = torch.tensor([1.0, 1.0])
        >>> finite_time_scores(w, torch.tensor([1.0]), torch.tensor([[1.0, 0.0]]), 1e6, 0.5).round(decimals=4).tolist()
        [0.0, 1.0]
    """
    _check_vector("weights", weights)
    if eigenvalues.ndim != 1 or eigenvectors.shape != (len(eigenvalues), len(weights)):
        raise ValueError(
            f"invalid eigenvectors: shape {tuple(eigenvectors.shape)} with eigenvalues of shape "
            f"{tuple(eigenvalues.shape)} (must be (k, {len(weights)}) with (k,))"
        )
    if not 0 <= time < math.inf:
        raise ValueError(f"invalid time: {time} (must be >= 0)")
    _check_mu(mu)
    factors = _kummer(eigenvalues, time, mu).to(weights)
    signs = weights.sign()
    rows = eigenvectors.to(weights)
    # M(H) z = z + V^T (M(h) - 1) V z, because M(0) = 1 on the complement.
    return signs * (signs + rows.T @ ((factors - 1) * (rows @ signs)))


def path_threshold(lrs: Iterable[float] | Tensor, c: float, mu: float) -> float:
    """The threshold of gRDA after steps at these learning rates.

        g_n = g_{n-1} + c * lr_n^(1/2 + mu) * (n^mu - (n-1)^mu),   g_0 = 0

    A step at rate zero changes nothing and is not counted.

    Args:
        lrs: the rates, one a step, >= 0, in order.
        c: strength, >= 0.
        mu: growth, in (0, 1].

    Raises:
        ValueError: for a value out of range.

    Example:
        At one rate it is ``c * lr^(1/2) * (n * lr)^mu``, and it never falls when the rate falls.

        >>> round(path_threshold([0.1] * 100, c=0.5, mu=0.5), 6)
        0.5
        >>> path_threshold([0.1] * 100 + [0.001], c=0.5, mu=0.5) > path_threshold([0.1] * 100, c=0.5, mu=0.5)
        True
    """
    if not 0 <= c < math.inf:
        raise ValueError(f"invalid c: {c} (must be >= 0)")
    _check_mu(mu)
    rates = lrs.double().cpu() if isinstance(lrs, Tensor) else torch.tensor(list(lrs), dtype=torch.float64)
    if rates.ndim != 1:
        raise ValueError(f"invalid lrs: shape {tuple(rates.shape)} (must be flat)")
    if len(wrong := rates[~(rates >= 0) | rates.isinf()]):
        raise ValueError(f"invalid lrs: {float(wrong[0])} (must be >= 0)")
    rates = rates[rates > 0]
    n = torch.arange(len(rates) + 1, dtype=torch.float64)
    return float(c * (rates.pow(0.5 + mu) * n.pow(mu).diff()).sum())


def complement_projection(vectors: Tensor) -> Callable[[Tensor], Tensor]:
    """The projection ``x - V^T V x`` on all that is orthogonal to the rows of ``vectors``, ``(k, d)``, orthonormal.

    With the top eigenvectors of a large network it approximates P0. With all eigenvectors of a small network's Hessian
    whose eigenvalue is not zero it is P0.

    >>> complement_projection(torch.tensor([[1.0, 0.0, 0.0]]))(torch.tensor([3.0, 4.0, 5.0])).tolist()
    [0.0, 4.0, 5.0]
    """
    return lambda x: x - vectors.T @ (vectors @ x)


def _kummer(eigenvalues: Tensor, time: float, mu: float) -> Tensor:
    """M(1; 1 + mu; -h t) of each eigenvalue h, in float64 on the CPU."""
    try:
        from scipy.special import hyp1f1
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the finite-time law needs SciPy: pip install scipy") from error
    values = eigenvalues.detach().double().cpu()
    factors = torch.as_tensor(hyp1f1(1.0, 1.0 + mu, -time * values.numpy()), dtype=torch.float64)
    if not bool(factors.isfinite().all()):
        raise ValueError(f"invalid eigenvalues: {float(values.min())} at time {time} (the law overflows)")
    return factors


def _check_vector(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 1 or not tensor.is_floating_point():
        raise ValueError(f"invalid {name}: {tensor.dtype} of shape {tuple(tensor.shape)} (must be flat and floating)")


def _check_mu(mu: float) -> None:
    if not 0 < mu <= 1:
        raise ValueError(f"invalid mu: {mu} (must be in (0, 1])")
