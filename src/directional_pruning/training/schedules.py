"""Factors of the learning rate for each epoch, for ``torch.optim.lr_scheduler.LambdaLR``."""

import math

__all__ = ["constant_schedule", "cosine_schedule", "drop_schedule", "paper_schedule"]


def constant_schedule(epoch: int, epochs: int) -> float:
    """The same rate in every epoch.

    >>> constant_schedule(100, 147)
    1.0
    """
    return 1.0


def drop_schedule(epoch: int, epochs: int, at: float = 140 / 150) -> float:
    """The rate of the paper's best ImageNet runs: a tenth from 140 of 150 epochs on.

    ``epoch`` counts from 0. ``at`` is the fraction of the epochs after which the rate drops; shorter runs drop too.

    >>> [drop_schedule(epoch, 150) for epoch in (0, 139, 140)], drop_schedule(14, 15)
    ([1.0, 1.0, 0.1], 0.1)
    """
    return 1.0 if epoch < round(at * epochs) else 0.1


def paper_schedule(epoch: int, epochs: int) -> float:
    """The paper's rate for CIFAR: 1 for half of the epochs, then linear to 0.01 at 90 %, then flat.

    ``epoch`` counts from 0.

    >>> [round(paper_schedule(epoch, 200), 3) for epoch in (0, 100, 140, 180, 199)]
    [1.0, 1.0, 0.505, 0.01, 0.01]
    """
    progress = epoch / epochs
    return min(1.0, max(0.01, 1.0 - 0.99 * (progress - 0.5) / 0.4))


def cosine_schedule(epoch: int, epochs: int, warmup: int = 2) -> float:
    """Rises in equal steps over ``warmup`` epochs to 1 and falls along half a cosine towards 0.

    ``epoch`` counts from 0; the last epoch is still above 0.

    >>> [round(cosine_schedule(epoch, 10), 3) for epoch in (0, 1, 2, 6, 9)]
    [0.333, 0.667, 1.0, 0.5, 0.038]
    """
    if epoch < warmup:
        return (epoch + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1)))
