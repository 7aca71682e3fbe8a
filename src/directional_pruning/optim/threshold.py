"""The formulas of the method: how the threshold grows, and what it makes of the dual."""

import math

import torch
from torch import Tensor

__all__ = ["count", "cut", "raise_threshold", "raise_thresholds", "scale_where_zero", "soft_threshold"]


def raise_threshold(g: Tensor, n: Tensor, lr: float, c: float, mu: float) -> float:
    """Count one more update, ``n += 1``, and return ``g += c lr^(1/2 + mu) (n^mu - (n-1)^mu)``."""
    count = n.add_(1).item()
    return g.add_(c * lr ** (0.5 + mu) * (count**mu - (count - 1) ** mu)).item()


def count(ns: list[Tensor], lr: float | Tensor) -> None:
    """One more update, ``n += 1``; none where the rate is a tensor that holds 0."""
    if isinstance(lr, Tensor):
        one = (lr != 0).to(ns[0])
        torch._foreach_add_(ns, [one] * len(ns))
    else:
        torch._foreach_add_(ns, 1.0)


def raise_thresholds(gs: list[Tensor], ns: list[Tensor], lr: float | Tensor, c: float, mu: float) -> None:
    """:func:`raise_threshold` for many, without the host knowing the numbers; all scalars lie on one device."""
    count(ns, lr)
    n = torch.stack(ns).to(torch.float64)
    rate = lr.to(torch.float64) if isinstance(lr, Tensor) else lr
    growth = c * rate ** (0.5 + mu) * (n**mu - (n - 1).clamp(min=0) ** mu)
    torch._foreach_add_(gs, list(growth.unbind()))


def soft_threshold(v: Tensor, g: float | Tensor, *, out: Tensor) -> None:
    """``out = v - clamp(v, -g, g)``: +0.0 inside the threshold, where torch's softshrink writes -0.0 for v < 0."""
    if isinstance(g, Tensor):
        out.copy_(v - torch.minimum(torch.maximum(v, -g), g))
    elif out.dtype == v.dtype:
        torch.sub(v, torch.clamp(v, -g, g, out=out), out=out)
    else:
        out.copy_(v.sub(v.clamp(-g, g)))
    if out.dtype != v.dtype:
        # A negative survivor too small for half precision rounds to -0.0; adding 0.0 makes it +0.0.
        out.add_(0.0)


def cut(v: Tensor, g: float | Tensor, power: float, *, out: Tensor) -> None:
    """``out = v (1 - (g / |v|)^power)`` beyond the threshold and 0 up to it; with a power of 1 soft-thresholding."""
    if power == 1:
        soft_threshold(v, g, out=out)
        return
    if power == math.inf:
        out.copy_(v.masked_fill(v.abs() <= g, 0.0)).add_(0.0)
        return
    # A tensor, because torch divides a number by a tensor in two roundings.
    g = g.to(v.dtype) if isinstance(g, Tensor) else torch.full((), g, dtype=v.dtype, device=v.device)
    ratio = g / v.abs()
    if power in (2, 4, 8, 16, 32, 64):
        share = ratio
        for _ in range(int(power).bit_length() - 1):
            share.square_()
    else:
        share = ratio**power
    # No comparison holds for NaN, which stays.
    out.copy_((v * (1 - share)).masked_fill_(v.abs() <= g, 0.0)).add_(0.0)


def scale_where_zero(d: Tensor, v: Tensor, g: float | Tensor, factor: float) -> Tensor:
    """The gradient d, times a factor where the weight is zero. Before the threshold has risen no weight counts as zero.

    >>> scale_where_zero(torch.tensor([1.0, 1.0]), torch.tensor([0.1, -0.3]), 0.2, 0.5)
    tensor([0.5000, 1.0000])
    """
    if isinstance(g, Tensor):
        return torch.where((v.abs() <= g) & (g > 0), d * factor, d)
    return torch.where(v.abs() <= g, d * factor, d) if g > 0 else d
