"""Labelled images as tensors on the device, without worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Images", "Splits"]


@dataclass(frozen=True)
class Images:
    """Images ``(n, channels, height, width)`` as float32 and labels ``(n,)`` as int64, both on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, *, shuffle_seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, ``batch_size`` at a time (the last batch may be smaller).

        The order is a pure function of ``shuffle_seed``; None keeps the stored order. So an epoch can be replayed
        without any state but its number.

        >>> five = Images(torch.zeros(5, 1, 1, 1), torch.arange(5))
        >>> [labels.tolist() for _, labels in five.batches(2)]
        [[0, 1], [2, 3], [4]]
        >>> sorted(int(label) for _, labels in five.batches(2, shuffle_seed=7) for label in labels)
        [0, 1, 2, 3, 4]
        """
        if shuffle_seed is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(shuffle_seed))
        for indices in order.to(self.labels.device).split(batch_size):
            yield self.images[indices], self.labels[indices]


class Splits(NamedTuple):
    """Train on the first, watch the second while training, open the third once at the end."""

    train: Images
    validation: Images
    test: Images
