"""One gRDA update as a function of its state: by a kernel, by torch's foreach operations, or tensor by tensor.

Notation of the paper: w the weights, v their dual, d what SGD would subtract from the weights, n the number of
updates, g the threshold.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .kernels import batch as native
from .threshold import count, raise_threshold, raise_thresholds, soft_threshold

__all__ = ["grda"]

# A parameter with its state: w, its gradient, v, the momentum buffer, g, n. A tuple, for a tensor cannot be compared.
_Row = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]


def grda(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    duals: Sequence[Tensor | None],
    momentum_buffers: Sequence[Tensor | None],
    thresholds: Sequence[Tensor | None],
    steps: Sequence[Tensor],
    *,
    lr: float | Tensor,
    c: float,
    mu: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    capturable: bool = False,
) -> None:
    r"""One gRDA update in place. See :class:`~directional_pruning.GRDA` for the equations and the ways to compute it.

    Args:
        params, grads: w and its gradient, tensors of one shape each.
        duals: v, of the shape of w, float32 or the dtype of w; None for a parameter trained by SGD (``c = 0``).
        momentum_buffers: of the shape of w, zero before the first update; None where there is no momentum.
        thresholds: g, float64 scalars; None where the dual is None.
        steps: n, float32 scalars, the number of updates so far. Where they and the thresholds lie on another device
            than the CPU, the host never waits for them.

    Example:
        >>> w, v = torch.tensor([0.3, -0.02]), torch.tensor([0.3, -0.02])
        >>> n, g = torch.tensor(0.0), torch.tensor(0.0, dtype=torch.float64)
        >>> grda([w], [torch.zeros(2)], [v], [None], [g], [n], lr=1.0, c=0.1, mu=0.5)
        >>> w.tolist() == [torch.tensor(0.3).sub(0.1).item(), 0.0], n.item(), round(g.item(), 3)
        (True, 1.0, 0.1)
    """
    sgd = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "maximize": maximize}
    rows: list[_Row] = list(zip(params, grads, duals, momentum_buffers, thresholds, steps, strict=True))
    compiling = torch.compiler.is_compiling()
    # Whether the threshold is a tensor to the host, or a number.
    symbolic = compiling or capturable or any(not n.is_cpu for n in steps)
    if compiling and not isinstance(lr, Tensor):
        # A number would be a constant of the compiled code, made anew for every rate of a schedule.
        lr = torch.ones((), dtype=torch.float64) * lr
    elif isinstance(lr, Tensor) and not compiling and (lr.is_cpu or not symbolic):
        lr = float(lr)
    # At this rate nothing moves but the momentum, as in SGD. On the device the update itself sees to that.
    resting = not isinstance(lr, Tensor) and lr == 0
    with torch.no_grad():
        if (fused or (fused is None and not foreach)) and not compiling and not resting:
            rows = _fused(rows, lr, c, mu, sgd)
        if foreach is None:
            foreach = all(row[0].is_cuda for row in rows)
        how = {"lr": lr, "c": c, "mu": mu, "symbolic": symbolic, "resting": resting, **sgd}
        if not foreach:
            for row in rows:
                _single_tensor(*row, **how)
            return
        alike: dict[Any, list[_Row]] = {}
        for row in rows:
            w, grad, v, *_ = row
            alike.setdefault((w.device, w.dtype, grad.dtype, v is None), []).append(row)
        for group in alike.values():
            _multi_tensor(*map(list, zip(*group, strict=True)), **how)


def _fused(rows: list[_Row], lr: float | Tensor, c: float, mu: float, sgd: dict[str, Any]) -> list[_Row]:
    """Update with the kernels what they can, and return the rest."""
    batch = native.Batch(lr, c, mu, **sgd)
    rest = []
    for row in rows:
        w, grad, v, buffer, g, n = row
        if v is None or g is None or not batch.add(w, v, grad, g, n, buffer):
            rest.append(row)
    batch.flush()
    return rest


def _gradient(
    w: Tensor,
    d: Tensor,
    v: Tensor | None,
    buffer: Tensor | None,
    *,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    maximize: bool,
) -> Tensor:
    """What SGD subtracts from the weights, lr times."""
    if maximize:
        d = -d
    if v is not None and (weight_decay != 0 or momentum != 0):
        d = d.to(v.dtype)
    if weight_decay != 0:
        d = d.add(w, alpha=weight_decay)
    if buffer is not None:
        buffer.mul_(momentum).add_(d)
        d = d.add(buffer, alpha=momentum) if nesterov else buffer
    return d


def _single_tensor(
    w: Tensor,
    grad: Tensor,
    v: Tensor | None,
    buffer: Tensor | None,
    g: Tensor | None,
    n: Tensor,
    *,
    lr: float | Tensor,
    c: float,
    mu: float,
    symbolic: bool,
    resting: bool,
    **sgd: Any,
) -> None:
    """Update one parameter with torch's plain operations."""
    d = _gradient(w, grad, v, buffer, **sgd)
    if resting:
        return
    # v_n = v_{n-1} - lr grad f(w_{n-1})
    moved = w if v is None else v
    if isinstance(lr, Tensor):
        moved.sub_(d * lr)
    else:
        moved.add_(d, alpha=-lr)
    # w_n = S_{g_n}(v_n)
    if v is None or g is None:
        count([n], lr)
    elif symbolic:
        raise_thresholds([g], [n], lr, c, mu)
        soft_threshold(v, g, out=w)
    else:
        soft_threshold(v, raise_threshold(g, n, float(lr), c, mu), out=w)


def _multi_tensor(
    ws: list[Tensor],
    ds: list[Tensor],
    vs: list[Tensor],
    buffers: list[Tensor],
    gs: list[Tensor],
    ns: list[Tensor],
    *,
    lr: float | Tensor,
    c: float,
    mu: float,
    symbolic: bool,
    resting: bool,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    maximize: bool,
) -> None:
    """The same for many parameters on one device, of one dtype and all with a dual or all without."""
    pruned = vs[0] is not None
    if maximize:
        ds = list(torch._foreach_neg(ds))
    if pruned and (weight_decay != 0 or momentum != 0):
        ds = [d.to(v.dtype) for d, v in zip(ds, vs)]
    if weight_decay != 0:
        ds = list(torch._foreach_add(ds, ws, alpha=weight_decay))
    if momentum != 0:
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, ds)
        ds = list(torch._foreach_add(ds, buffers, alpha=momentum)) if nesterov else buffers
    if resting:
        return
    moved = vs if pruned else ws
    if isinstance(lr, Tensor):
        torch._foreach_sub_(moved, torch._foreach_mul(ds, lr))
    else:
        torch._foreach_add_(moved, ds, alpha=-lr)
    if not pruned:
        count(ns, lr)
        return
    if symbolic:
        raise_thresholds(gs, ns, lr, c, mu)
        inside = torch._foreach_maximum(vs, torch._foreach_neg(gs))
        torch._foreach_minimum_(inside, gs)
    else:
        risen = [raise_threshold(g, n, float(lr), c, mu) for g, n in zip(gs, ns)]
        inside = torch._foreach_maximum(vs, [-g for g in risen])
        torch._foreach_minimum_(inside, risen)
    torch._foreach_copy_(ws, torch._foreach_sub(vs, inside))
    if ws[0].dtype != vs[0].dtype:
        # A negative survivor too small for half precision rounds to -0.0; adding 0.0 makes it +0.0.
        torch._foreach_add_(ws, 0.0)
