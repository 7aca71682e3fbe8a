"""Products with the Hessian of a network's mean loss, without the matrix.

A flat vector holds the parameters in the order of ``model.parameters()``, as
``torch.nn.utils.parameters_to_vector`` lays them out.

A product is the derivative of a gradient, backward twice. On the digits' network it costs about 3 gradients, where
forward over backward through ``torch.func``, as in curvlinops, costs 4 to 6 (``benchmarks/hessian_product.py``).
"""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..tensors import module_mode
from .network import Batches, Loss, State, check_batches, device_of, moved, output_of

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse.linalg import LinearOperator

__all__ = ["hessian_operator", "hessian_product"]


def hessian_product(
    model: nn.Module, loss_fn: Loss, batches: Batches, *, gauss_newton: bool = False
) -> Callable[[Tensor], Tensor]:
    """The function ``v -> H v`` of the Hessian of the mean loss, at the weights the model has now.

    With ``gauss_newton`` it is ``v -> J^T L J v``, the generalised Gauss-Newton matrix: J is the Jacobian of the
    outputs, L the Hessian of the loss in the outputs. It is positive semidefinite for a convex loss. Where the network
    fits its data both agree; they differ by the second derivatives of the network.

    Args:
        model: of float32 or float64 parameters, in which the products are computed. It is not changed. The product
            copies its weights but uses its layers: do not change the layers later.
        loss_fn: ``(outputs, targets)`` -> mean loss over the samples, twice differentiable.
        batches: ``(inputs, targets)``, a list, or anything that gives the same data at each reading: no augmentation.
        gauss_newton: the Gauss-Newton matrix in place of the Hessian.

    Returns:
        A function of a flat vector ``(d,)`` of the dtype and device of the parameters, gradients of frozen ones
        included. Memory: about three times that of a gradient on one batch.

    Raises:
        TypeError: for batches that can be read only once.
        ValueError: for parameters of another dtype, no data, a loss that is not finite, or a loss that differs between
            two passes, as augmentation would make it.

    >>> w = nn.Linear(2, 1, bias=False)
    >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1))]  # loss (w0^2 + 9 w1^2) / 2
    >>> hessian_product(w, nn.functional.mse_loss, data)(torch.tensor([1.0, 1.0])).tolist()
    [1.0, 9.0]
    """
    check_batches(batches, "batches")
    for name, p in model.named_parameters():
        if p.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"invalid model: parameter {name} is {p.dtype} (must be float32 or float64)")
    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    total = _samples(model, loss_fn, batches, {**parameters, **buffers})
    sizes = [p.numel() for p in parameters.values()]
    part = _gauss_newton_part if gauss_newton else _hessian_part

    def product(v: Tensor) -> Tensor:
        if v.shape != (sum(sizes),):
            raise ValueError(f"invalid vector: shape {tuple(v.shape)} (must be ({sum(sizes)},))")
        pieces = zip(parameters.items(), v.detach().split(sizes), strict=True)
        direction = {name: piece.view_as(p) for (name, p), piece in pieces}
        result = torch.zeros_like(v)
        # Of the ways to compute attention only this has second derivatives, and it is deterministic.
        with module_mode(model, training=False), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            for inputs, targets in moved(batches, device_of(model)):
                parts = part(model, loss_fn, parameters, buffers, direction, inputs, targets)
                result.add_(torch.cat([x.detach().flatten() for x in parts]), alpha=len(targets) / total)
        return result

    return product


def hessian_operator(
    model: nn.Module, loss_fn: Loss, batches: Batches, *, gauss_newton: bool = False
) -> "LinearOperator":
    """:func:`hessian_product` as a symmetric SciPy ``LinearOperator`` ``(d, d)``, for SciPy's solvers and eigensolvers.

    NumPy vectors go in and out, in the dtype of the parameters; the products are computed on the device of the model.

    Raises:
        TypeError, ValueError: as :func:`hessian_product`.
        ModuleNotFoundError: where SciPy is not installed.

    >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1))]
    >>> (hessian_operator(nn.Linear(2, 1, bias=False), nn.functional.mse_loss, data) @ [1.0, 1.0]).tolist()
    [1.0, 9.0]
    """
    try:
        from scipy.sparse.linalg import LinearOperator
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a linear operator needs SciPy: pip install 'directional-pruning[landscape]'"
        ) from error
    product = hessian_product(model, loss_fn, batches, gauss_newton=gauss_newton)
    like = next(model.parameters()).detach()
    d = sum(p.numel() for p in model.parameters())

    def multiply(v: "np.ndarray") -> "np.ndarray":
        return product(torch.as_tensor(v.ravel(), dtype=like.dtype, device=like.device)).cpu().numpy()

    dtype = torch.empty(0, dtype=like.dtype).numpy().dtype
    make: Any = LinearOperator  # its class is chosen by its arguments, which a type checker cannot follow
    return make((d, d), matvec=multiply, rmatvec=multiply, dtype=dtype)


def _hessian_part(
    model: nn.Module, loss_fn: Loss, parameters: State, buffers: State, direction: State, inputs: Any, targets: Tensor
) -> Iterable[Tensor]:
    """The Hessian of one batch times the direction, parameter by parameter."""
    weights = list(parameters.values())
    loss = loss_fn(output_of(model, {**parameters, **buffers}, inputs), targets)
    slope = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    # H v = d/dw <dL/dw, v>, which is zero where the loss is linear.
    inner = torch.stack([(s * direction[name]).sum() for name, s in zip(parameters, slope)]).sum()
    if not inner.requires_grad:
        return [torch.zeros_like(p) for p in weights]
    return torch.autograd.grad(inner, weights, materialize_grads=True)


def _gauss_newton_part(
    model: nn.Module, loss_fn: Loss, parameters: State, buffers: State, direction: State, inputs: Any, targets: Tensor
) -> Iterable[Tensor]:
    """``J^T L J v`` of one batch, parameter by parameter."""
    weights = list(parameters.values())
    z = output_of(model, {**parameters, **buffers}, inputs)
    if not isinstance(z, Tensor):
        raise TypeError(f"invalid model: gives a {type(z).__name__} (must be a tensor for Gauss-Newton)")
    # J v = d/du <J^T u, v>: J^T u is linear in u, so that the value of u does not matter.
    u = torch.zeros_like(z, requires_grad=True)
    pulled = torch.autograd.grad(z, weights, grad_outputs=u, create_graph=True, materialize_grads=True)
    inner = torch.stack([(p * direction[name]).sum() for name, p in zip(parameters, pulled)]).sum()
    (jv,) = torch.autograd.grad(inner, u, retain_graph=True)
    at = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss_fn(at, targets), at, create_graph=True)
    if not slope.requires_grad:
        return [torch.zeros_like(p) for p in weights]
    (curved,) = torch.autograd.grad(slope, at, grad_outputs=jv)
    return torch.autograd.grad(z, weights, grad_outputs=curved, materialize_grads=True)


@torch.no_grad()
def _samples(model: nn.Module, loss_fn: Loss, batches: Batches, state: State) -> int:
    """The number of samples; ValueError for data or a network that would not give one Hessian."""
    means, samples = [], 0
    for _ in range(2):
        total, samples = 0.0, 0
        with module_mode(model, training=False), sdpa_kernel(SDPBackend.MATH):
            for inputs, targets in moved(batches, device_of(model)):
                total += loss_fn(output_of(model, state, inputs), targets).double() * len(targets)
                samples += len(targets)
        if not samples:
            raise ValueError("invalid batches: none (must hold a sample)")
        means.append(float(total) / samples)
    first, second = means
    if not math.isfinite(first):
        raise ValueError(f"invalid model: its loss on the batches is {first} (must be finite)")
    # Far above what another order of the batches changes, far below what a random flip does.
    if abs(first - second) > 1e-5 * abs(first) + 1e-12:
        raise ValueError(f"invalid batches: mean loss {first} in one pass, {second} in the next (must be the same)")
    return samples
