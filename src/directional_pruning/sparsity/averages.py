"""An average of the weights over the training that keeps their zeros."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["sparse_average"]


def sparse_average(decay: float | None = None) -> Callable[..., Any]:
    r"""An averaging function for torch and Lightning whose average is zero wherever the current weights are zero.

    With w the current weights, a their average and n how many weights are in a:

    .. math::
        a \leftarrow \begin{cases}
            0 & \text{where } w = 0 \\
            w & \text{where } w \neq 0 \text{ and } a = 0 \\
            a + (w - a) / (n + 1), \text{ or } a + (1 - \text{decay}) (w - a) & \text{elsewhere}
        \end{cases}

    The averages of ``torch.optim.swa_utils`` are zero only where all weights so far were zero, which is nearly nowhere.
    Here the average ends with the zeros of the last weights that came in. A weight that revives starts from its value.

    Hand it to ``torch.optim.swa_utils.AveragedModel``, or to Lightning's ``WeightAveraging`` or
    ``StochasticWeightAveraging``, as ``avg_fn``; as ``multi_avg_fn`` it gives the same. With ``use_buffers=True``
    buffers are averaged too; integers and booleans, as counters and masks, are those of the current network.

    Weights in half precision are averaged in float32 and rounded, which loses changes of less than half a unit in the
    last place. To keep them, make the average float32, ``averaged.module.float()``, and use ``avg_fn``.

    Args:
        decay: of an exponential moving average, in [0, 1]; None weighs all networks alike.

    Raises:
        ValueError: for another ``decay``.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> averaged = torch.optim.swa_utils.AveragedModel(model, avg_fn=sparse_average())
    >>> for weights in ([[4.0, 1.0]], [[2.0, 0.0]]):
    ...     model.weight = torch.nn.Parameter(torch.tensor(weights))
    ...     averaged.update_parameters(model)
    >>> averaged.module.weight.tolist()
    [[3.0, 0.0]]
    """
    if decay is not None and not 0 <= decay <= 1:
        raise ValueError(f"invalid decay: {decay} (must be in [0, 1] or None)")

    def average(a: Tensor, w: Tensor, n: Tensor | int) -> Tensor:
        if not (a.is_floating_point() or a.is_complex()):
            return w
        half = a.dtype in (torch.bfloat16, torch.float16)
        wide = a.to(torch.float32) if half else a
        w = w.to(wide.dtype)
        move = (w - wide) / (n + 1) if decay is None else (w - wide) * (1 - decay)
        # Where both are zero w is, as +0.0; so is a survivor that half precision rounds to -0.0.
        return torch.where((w == 0) | (wide == 0), w, wide + move).to(a.dtype) + 0.0

    @torch.no_grad()
    def update(a: Any, w: Any, n: Tensor | int) -> Tensor | None:
        if isinstance(a, Tensor):
            return average(a, w, n)
        for each, current in zip(a, w, strict=True):
            each.copy_(average(each, current, n))
        return None

    return update
