"""What another optimizer has made of the weights becomes a move of the dual, and the weights the thresholded dual."""

from typing import Any

import torch
from torch import Tensor

from . import kernels
from .target import law_of
from .threshold import cut, raise_threshold, raise_thresholds

__all__ = ["Row", "follow_base"]

Row = tuple[Tensor, Tensor, Tensor, Tensor]
"""Weights, dual, threshold and update counter of one parameter."""


def follow_base(group: dict[str, Any], lr: float | Tensor, first: list[Row], later: list[Row]) -> None:
    """Move duals as a base moved the weights, and raise the thresholds.

    Args:
        group: the parameter group, with the law or the target.
        lr: its rate, as ``resolve_rate`` returns it.
        first: parameters at their first update, whose dual is a copy of what the base made of the weights.
        later: the other parameters, with the weights as the base left them.
    """
    (c, power, _), mu = law_of(group), group["mu"]
    if later:
        ws, vs, gs, ns = zip(*later, strict=True)
        rest = kernels.update(ws, None, vs, None, gs, ns, lr=lr, c=c, mu=mu, power=power)
        later = [later[i] for i in rest]
    for w, v, g, _ in later:
        # v_n = v_{n-1} + (w' - w_{n-1})
        before = torch.empty_like(w)
        cut(v, g if group.get("capturable") or not g.is_cpu else g.item(), power, out=before)
        v.add_(torch.sub(w, before, out=before))
    for w, v, g, n in (*first, *later):
        # w_n = S_{g_n}(v_n)
        if group.get("capturable") or not g.is_cpu:
            raise_thresholds([g], [n], lr, c, mu)
            cut(v, g, power, out=w)
        else:
            cut(v, raise_threshold(g, n, float(lr), c, mu), power, out=w)
