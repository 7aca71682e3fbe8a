"""Labelled images as tensors on the device, without worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .order import shares

__all__ = ["Images", "Splits", "affine"]

T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """Images ``(n, channels, height, width)`` and labels ``(n,)`` as int64, both on one device.

    Args:
        images: float32, or uint8 in 0..255, which batches scale to [0, 1].
        mean: of each channel, subtracted from the pixels, of a scale from 0 to 1 where they are uint8.
        std: of each channel, by which they are then divided.
        padding: black pixels put around an image before a random window of its own size is cut out of it.
        flip: mirror every second image, at random.
    """

    images: Tensor
    labels: Tensor
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    padding: int = 0
    flip: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, first: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 images and their labels, every image once, ``batch_size`` at a time (the last may be fewer).

        The order and the augmentation are a pure function of ``shuffle_seed``, the same on every device and for any
        number of processes. None keeps the stored order and the images as they are. So an epoch can be replayed, or
        gone on with at any batch, without any state but its number.

        Args:
            first: batches to leave out; nothing is computed for them.
            part: rank and number of processes, each of which gets its share of every batch; ``batch_size`` is of all.
                With a seed the shares are equal, for which the last batch is cut to a multiple of the processes.

        Raises:
            ValueError: for an argument out of range; with a seed, also for a batch size that the number of processes
                does not divide.

        >>> five = Images(torch.zeros(5, 1, 1, 1), torch.arange(5))
        >>> [labels.tolist() for _, labels in five.batches(2)]
        [[0, 1], [2, 3], [4]]
        >>> sorted(int(label) for _, labels in five.batches(2, shuffle_seed=7) for label in labels)
        [0, 1, 2, 3, 4]
        >>> [labels.tolist() for _, labels in five.batches(2, first=1, part=(1, 2))]
        [[3], [4]]
        """
        random = shuffle_seed is not None
        cuts = list(shares(len(self), batch_size, first=first, part=part, equal=random))
        if random:
            yield from self._shuffled(cuts, torch.Generator().manual_seed(shuffle_seed))
        else:
            for start, stop in cuts:
                yield self._normalised(self.images[start:stop]), self.labels[start:stop].clone()

    def _shuffled(self, cuts: list[tuple[int, int]], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of this epoch's order. All its random numbers are drawn here, on the CPU, whatever is left out."""
        count, device, p = len(self), self.labels.device, self.padding
        order = torch.randperm(count, generator=generator).to(device)
        rows, columns = torch.randint(2 * p + 1, (2, count), generator=generator).to(device)
        # Positions, not a mask: their number is known here, while a mask would make the CPU wait for the device.
        mirrored = (torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)).nonzero().squeeze(1)
        bounds = torch.searchsorted(mirrored, torch.tensor(cuts, dtype=torch.int64).reshape(-1, 2)).tolist()
        mirrored = mirrored.to(device)

        for (start, stop), (begin, end) in zip(cuts, bounds):
            chosen = order[start:stop]
            images = self.images.index_select(0, chosen)
            if p:
                images = _windows(F.pad(images, (p, p, p, p)).contiguous(), rows[start:stop], columns[start:stop], p)
            if begin < end:
                those = mirrored[begin:end] - start
                images.index_copy_(0, those, images.index_select(0, those).flip(3))
            yield self._normalised(images), self.labels[chosen]

    def _normalised(self, images: Tensor) -> Tensor:
        """Float32, scaled and shifted. The caller may write into it, so it never shares memory with the data set."""
        pixels = images.to(torch.float32, copy=True)
        if images.dtype == torch.uint8 or self.mean is not None or self.std is not None:
            factor, offset = affine(self.mean, self.std, 255 if images.dtype == torch.uint8 else 1, images.device)
            pixels.mul_(factor).add_(offset)
        return pixels


def affine(
    mean: Sequence[float] | None, std: Sequence[float] | None, whole: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and offset ``(channels, 1, 1)`` for which ``factor * x + offset = (x / whole - mean) / std``."""
    means = torch.tensor(0.0 if mean is None else mean, dtype=torch.float64)
    stds = torch.tensor(1.0 if std is None else std, dtype=torch.float64)
    constants = (1 / (whole * stds), -means / stds)
    factor, offset = (constant.float().reshape(-1, 1, 1).to(device) for constant in constants)
    return factor, offset


def _windows(padded: Tensor, rows: Tensor, columns: Tensor, padding: int) -> Tensor:
    """Of each padded image the window that begins at its row and column, without copying anything else."""
    count, channels, height, width = padded.shape
    # A view in which entry k is the window whose first pixel has offset k in memory: windows overlap, nothing is
    # copied until some are selected.
    shape = (channels, height - 2 * padding, width - 2 * padding)
    strides = (height * width, width, 1)
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides))
    view = padded.as_strided((padded.numel() - reach, *shape), (1, *strides))
    starts = torch.arange(count, device=padded.device) * (channels * height * width) + rows * width + columns
    # On the CPU index_select copies whole rows; elsewhere it might first make all the overlapping windows contiguous.
    return view.index_select(0, starts) if padded.device.type == "cpu" else view[starts]


class Splits(NamedTuple, Generic[T]):
    """Train on the first, watch the second while training, open the third once at the end."""

    train: T
    validation: T
    test: T
