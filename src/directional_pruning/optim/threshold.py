"""The two formulas of the method: how the threshold grows, and what it does to the dual."""

import torch
from torch import Tensor

__all__ = ["raise_thresholds", "soft_threshold"]


def raise_thresholds(thresholds: list[Tensor | None], steps: list[Tensor], lr: float, c: float, mu: float) -> None:
    """Count one more update and raise each threshold by ``c lr^(1/2 + mu) (n^mu - (n-1)^mu)``."""
    torch._foreach_add_(steps, 1)
    scale = c * lr ** (0.5 + mu)
    counted = [(g, n.item()) for g, n in zip(thresholds, steps, strict=True) if g is not None]
    if counted:
        torch._foreach_add_([g for g, _ in counted], [scale * (n**mu - (n - 1) ** mu) for _, n in counted])


def soft_threshold(v: Tensor, g: float, *, out: Tensor) -> None:
    """``out = v - clamp(v, -g, g)``: +0.0 inside the threshold, where torch's softshrink writes -0.0 for v < 0."""
    if out.dtype == v.dtype:
        torch.sub(v, torch.clamp(v, -g, g, out=out), out=out)
    else:
        # A negative survivor too small for half precision rounds to -0.0; adding 0.0 makes it +0.0.
        out.copy_(v.sub(v.clamp(-g, g))).add_(0.0)
