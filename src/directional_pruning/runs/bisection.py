"""Which targets to train next: bisection on the logarithm of the share of weights that is left."""

from collections.abc import Mapping

__all__ = ["LARGEST", "next_targets"]

LARGEST = 0.999
"""No larger target is tried."""


def next_targets(held: Mapping[float, bool], count: int = 1) -> list[float]:
    """Up to ``count`` targets that cut the interval with the answer into parts; none where it cannot be cut further.

    The interval reaches from the largest target that held, or from no zeros, to the smallest above it that did not,
    or to :data:`LARGEST`. The parts are equal on the logarithm of what is left, which gets two digits.

    Args:
        held: for each target that was tried, whether its network is good enough. They need not be in order, as they
            are not where chance decides.

    >>> next_targets({}), next_targets({0.968: False}), next_targets({0.968: True}, 2)
    ([0.968], [0.82], [0.99, 0.9968])
    """
    low = max((target for target, good in held.items() if good), default=0.0)
    high = min((target for target, good in held.items() if not good and target > low), default=LARGEST)
    ratio = (1 - high) / (1 - low)
    left = (float(f"{(1 - low) * ratio ** (i / (count + 1)):.2g}") for i in range(1, count + 1))
    targets = dict.fromkeys(round(1 - share, 9) for share in left)
    return [target for target in targets if low < target < high and target not in held]
