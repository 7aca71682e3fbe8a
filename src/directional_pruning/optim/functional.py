"""One gRDA update as a function of its state: by a kernel, by torch's foreach operations, or tensor by tensor.

Notation of the paper: w the weights, v their dual, d what SGD would subtract from the weights, n the number of
updates, g the threshold.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import kernels
from .group_values import check_grda
from .kernels import SGDOptions
from .state import resolve_rate
from .target import Law
from .threshold import count, cut, raise_threshold, raise_thresholds, scale_where_zero

__all__ = ["grda", "update_lists"]


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

    Raises:
        ValueError: for a number out of range, naming it and its value.

    Example:
        >>> w, v = torch.tensor([0.3, -0.02]), torch.tensor([0.3, -0.02])
        >>> n, g = torch.tensor(0.0), torch.tensor(0.0, dtype=torch.float64)
        >>> grda([w], [torch.zeros(2)], [v], [None], [g], [n], lr=1.0, c=0.1, mu=0.5)
        >>> w.tolist() == [torch.tensor(0.3).sub(0.1).item(), 0.0], n.item(), round(g.item(), 3)
        (True, 1.0, 0.1)
    """
    algorithm = {"lr": lr, "c": c, "mu": mu, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    algorithm |= {"maximize": maximize}
    check_grda({**algorithm, "foreach": foreach, "fused": fused, "capturable": capturable, "target": None})
    lists = (params, grads, duals, momentum_buffers, thresholds, steps)
    if not torch.compiler.is_compiling() and any(
        t is not None and t.is_neg() for column in (params, duals, momentum_buffers) for t in column
    ):
        fused = False  # the kernels would read the memory, which holds the negated numbers
    sgd = SGDOptions(momentum, weight_decay, nesterov, maximize)
    with torch.no_grad():
        update_lists(lists, lr=lr, mu=mu, law=Law(c), sgd=sgd, foreach=foreach, fused=fused, capturable=capturable)


def update_lists(
    lists: tuple[Sequence[Any], ...],
    *,
    lr: float | Tensor,
    mu: float,
    law: Law,
    sgd: SGDOptions,
    foreach: bool | None,
    fused: bool | None,
    capturable: bool,
) -> None:
    """:func:`grda` for six lists, of which only the gradients may hold negated views; autograd must be off."""
    compiling = torch.compiler.is_compiling()
    if kernels.are_wanted(fused, foreach) and not compiling:
        if isinstance(lr, Tensor):
            lr = resolve_rate(lr, on_device=capturable or any(not n.is_cpu for n in lists[5]))
        if isinstance(lr, Tensor) or lr != 0:
            rest = kernels.update(*lists, lr=lr, mu=mu, **law._asdict(), sgd=sgd)
            if not rest:
                return
            lists = tuple([column[i] for i in rest] for column in lists)
    rows = list(zip(*lists, strict=True))
    # On the device n and g are tensors that the host does not read; elsewhere they are numbers.
    on_device = compiling or capturable or any(not row[5].is_cpu for row in rows)
    lr = resolve_rate(lr, on_device=on_device)
    # At this rate only the momentum moves, as in SGD. A rate on the device is 0 inside of the update.
    zero_lr = not isinstance(lr, Tensor) and lr == 0
    how = {"lr": lr, "mu": mu, "law": law, "on_device": on_device, "zero_lr": zero_lr, "sgd": sgd}
    if foreach is None:
        foreach = all(row[0].is_cuda for row in rows)
    if not foreach:
        for row in rows:
            _single_tensor(*row, **how)
        return
    alike: dict[Any, list[Any]] = {}
    for row in rows:
        w, grad, v, *_ = row
        alike.setdefault((w.device, w.dtype, grad.dtype, v is None), []).append(row)
    for group in alike.values():
        _multi_tensor(*map(list, zip(*group, strict=True)), **how)


def _single_tensor(
    w: Tensor,
    grad: Tensor,
    v: Tensor | None,
    buffer: Tensor | None,
    g: Tensor | None,
    n: Tensor,
    *,
    lr: float | Tensor,
    mu: float,
    law: Law,
    on_device: bool,
    zero_lr: bool,
    sgd: SGDOptions,
) -> None:
    """Update one parameter with torch's plain operations."""
    if law.gradient_of_zeros != 1 and v is not None and g is not None:
        grad = scale_where_zero(grad, v, g if on_device else g.item(), law.gradient_of_zeros)
    d = _sgd_direction(w, grad, v, buffer, sgd)
    if zero_lr:
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
    elif on_device:
        raise_thresholds([g], [n], lr, law.c, mu)
        cut(v, g, law.power, out=w)
    else:
        cut(v, raise_threshold(g, n, float(lr), law.c, mu), law.power, out=w)


def _sgd_direction(w: Tensor, d: Tensor, v: Tensor | None, buffer: Tensor | None, sgd: SGDOptions) -> Tensor:
    """What SGD subtracts from the weights, lr times."""
    if sgd.maximize:
        d = -d
    if v is not None and (sgd.weight_decay != 0 or sgd.momentum != 0):
        d = d.to(v.dtype)
    if sgd.weight_decay != 0:
        d = d.add(w, alpha=sgd.weight_decay)
    if buffer is not None:
        buffer.mul_(sgd.momentum).add_(d)
        d = d.add(buffer, alpha=sgd.momentum) if sgd.nesterov else buffer
    return d


def _multi_tensor(
    ws: list[Tensor],
    ds: list[Tensor],
    vs: list[Tensor],
    buffers: list[Tensor],
    gs: list[Tensor],
    ns: list[Tensor],
    *,
    lr: float | Tensor,
    mu: float,
    law: Law,
    on_device: bool,
    zero_lr: bool,
    sgd: SGDOptions,
) -> None:
    """The same for many parameters on one device, of one dtype and all with a dual or all without."""
    pruned = vs[0] is not None
    if law.gradient_of_zeros != 1 and pruned:
        thresholds = gs if on_device else [g.item() for g in gs]
        ds = [scale_where_zero(d, v, g, law.gradient_of_zeros) for d, v, g in zip(ds, vs, thresholds)]
    if sgd.maximize:
        ds = list(torch._foreach_neg(ds))
    if pruned and (sgd.weight_decay != 0 or sgd.momentum != 0):
        ds = [d.to(v.dtype) for d, v in zip(ds, vs)]
    if sgd.weight_decay != 0:
        ds = list(torch._foreach_add(ds, ws, alpha=sgd.weight_decay))
    if sgd.momentum != 0:
        torch._foreach_mul_(buffers, sgd.momentum)
        torch._foreach_add_(buffers, ds)
        ds = list(torch._foreach_add(ds, buffers, alpha=sgd.momentum)) if sgd.nesterov else buffers
    if zero_lr:
        return
    moved = vs if pruned else ws
    if isinstance(lr, Tensor):
        torch._foreach_sub_(moved, torch._foreach_mul(ds, lr))
    else:
        torch._foreach_add_(moved, ds, alpha=-lr)
    if not pruned:
        count(ns, lr)
        return
    if on_device:
        raise_thresholds(gs, ns, lr, law.c, mu)
        raised: list[Any] = gs
    else:
        raised = [raise_threshold(g, n, float(lr), law.c, mu) for g, n in zip(gs, ns)]
    if law.power != 1:
        for v, g, w in zip(vs, raised, ws):
            cut(v, g, law.power, out=w)
        return
    if on_device:
        inside = torch._foreach_maximum(vs, torch._foreach_neg(gs))
        torch._foreach_minimum_(inside, gs)
    else:
        inside = torch._foreach_maximum(vs, [-g for g in raised])
        torch._foreach_minimum_(inside, raised)
    torch._foreach_copy_(ws, torch._foreach_sub(vs, inside))
    if ws[0].dtype != vs[0].dtype:
        # A negative survivor too small for half precision rounds to -0.0; adding 0.0 makes it +0.0.
        torch._foreach_add_(ws, 0.0)
