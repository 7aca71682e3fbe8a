"""Labelled images as tensors on the device, without worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from .splits import shares

__all__ = ["Images", "Splits", "affine"]

T = TypeVar("T")

# Values of images that are augmented at once, 8 MB as float32: more outgrow caches, with fewer threads meet more often.
_AT_ONCE = 1 << 21


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
        device = self.images.device
        cuts = list(shares(len(self), batch_size, first=first, part=part, equal=shuffle_seed is not None))
        factor, offset = affine(self.mean, self.std, 1 if self.images.is_floating_point() else 255, device)
        plain = self.images.is_floating_point() and self.mean is None and self.std is None
        if shuffle_seed is not None:
            chunks = self._shuffled(cuts, torch.Generator().manual_seed(shuffle_seed))
        else:
            chunks = ((self.images[a:b].clone(), self.labels[a:b].clone(), b - a) for a, b in cuts)
        for images, labels, size in chunks:
            # What comes here is a copy, so that nothing written into a batch gets into the data set.
            pixels = images if plain else images.float().mul_(factor).add_(offset)
            yield from zip(pixels.split(size), labels.split(size))

    def _shuffled(
        self, cuts: list[tuple[int, int]], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Augmented images and labels, several batches at once, and the size of a batch.

        All random numbers of the epoch are drawn here, on the CPU, whatever is left out.
        """
        count, device, p = len(self), self.labels.device, self.padding
        order = torch.randperm(count, generator=generator)
        rows, columns = torch.randint(2 * p + 1, (2, count), generator=generator)
        mirrored = torch.randint(2, (count,), generator=generator) * self.flip
        if not cuts:
            return
        mine = torch.cat([torch.arange(start, stop) for start, stop in cuts])
        order, rows, columns, mirrored = (values[mine].to(device) for values in (order, rows, columns, mirrored))

        # Several batches at once: the threads meet, or kernels start, less often.
        size = cuts[0][1] - cuts[0][0]
        most = size * max(1, _AT_ONCE // self.images[:size].numel())
        _, channels, height, width = self.images.shape
        # The images on black, and their mirror images: what is wanted is a window of one or the other.
        canvas = self.images.new_zeros(1 + self.flip, min(most, len(mine)), channels, height + 2 * p, width + 2 * p)
        inside, windows = canvas[..., p : p + height, p : p + width], _windows(canvas, height, width)
        wanted = rows * canvas.stride(3) + columns + mirrored * canvas.stride(0)
        steps = torch.arange(canvas.shape[1], device=device) * canvas.stride(1)
        for chosen, offsets in zip(order.split(most), wanted.split(most)):
            images = self.images.index_select(0, chosen)
            if p or self.flip:
                inside[0, : len(chosen)] = images
                if self.flip:
                    inside[1, : len(chosen)] = images.flip(3)
                starts = offsets + steps[: len(chosen)]
                # On the CPU index_select copies whole rows; elsewhere it might first write out all the windows.
                images = windows.index_select(0, starts) if device.type == "cpu" else windows[starts]
            yield images, self.labels[chosen], size


def affine(
    mean: Sequence[float] | None, std: Sequence[float] | None, whole: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and offset ``(channels, 1, 1)`` for which ``factor * x + offset = (x / whole - mean) / std``."""
    means = torch.tensor(0.0 if mean is None else mean, dtype=torch.float64)
    stds = torch.tensor(1.0 if std is None else std, dtype=torch.float64)
    constants = (1 / (whole * stds), -means / stds)
    factor, offset = (constant.float().reshape(-1, 1, 1).to(device) for constant in constants)
    return factor, offset


def _windows(canvas: Tensor, height: int, width: int) -> Tensor:
    """A view whose entry k is the window ``(channels, height, width)`` with its first pixel at offset k of memory."""
    shape, strides = (canvas.shape[2], height, width), canvas.stride()[2:]
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides))
    return canvas.as_strided((max(canvas.numel() - reach, 0), *shape), (1, *strides))


class Splits(NamedTuple, Generic[T]):
    """Train on the first, watch the second while training, open the third once at the end."""

    train: T
    validation: T
    test: T
