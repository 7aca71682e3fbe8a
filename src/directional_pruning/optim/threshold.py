"""The two formulas of the method: how the threshold grows, and what it does to the dual."""

import torch
from torch import Tensor

__all__ = ["raise_threshold", "soft_threshold"]


def raise_threshold(g: Tensor, n: Tensor, lr: float, c: float, mu: float) -> float:
    """Count one more update, ``n += 1``, and return ``g += c lr^(1/2 + mu) (n^mu - (n-1)^mu)``."""
    count = n.add_(1).item()
    return g.add_(c * lr ** (0.5 + mu) * (count**mu - (count - 1) ** mu)).item()


def soft_threshold(v: Tensor, g: float, *, out: Tensor) -> None:
    """``out = v - clamp(v, -g, g)``: +0.0 inside the threshold, where torch's softshrink writes -0.0 for v < 0."""
    if out.dtype == v.dtype:
        torch.sub(v, torch.clamp(v, -g, g, out=out), out=out)
    else:
        # A negative survivor too small for half precision rounds to -0.0; adding 0.0 makes it +0.0.
        out.copy_(v.sub(v.clamp(-g, g))).add_(0.0)
