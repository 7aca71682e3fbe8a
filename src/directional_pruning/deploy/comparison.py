"""How much two outputs differ, for the checks of ``compact`` and ``export_onnx``."""

import math

from torch import Tensor


def relative_difference(expected: Tensor, actual: Tensor, *, floor: float) -> float:
    """The largest difference, relative to the largest entry of ``expected`` but at least to ``floor``.

    It is inf for another shape and NaN where an entry is NaN.

    >>> relative_difference(Tensor([8.0, -2.0]), Tensor([8.0, -1.0]), floor=1.0)
    0.125
    """
    if expected.shape != actual.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    expected, actual = expected.double(), actual.double()
    return float((expected - actual).abs().max() / expected.abs().max().clamp(min=floor))
