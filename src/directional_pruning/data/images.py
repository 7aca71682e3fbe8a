"""Labelled images in memory: crops, flips and normalisation of whole batches on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from .splits import batch_slices

__all__ = ["Images", "Splits", "affine", "window_view"]

T = TypeVar("T")

# Pixel values that are augmented in one operation: 8 MB as float32. More do not fit into caches; fewer cost more
# synchronisation of threads.
_VALUES_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Images:
    """Images ``(n, channels, height, width)`` and labels ``(n,)`` as int64, both on one device.

    Args:
        images: float32, or uint8 in 0..255, which batches scale to [0, 1].
        labels: one class per image.
        mean: of each channel, subtracted from the scaled pixels.
        std: of each channel, by which the pixels are then divided.
        padding: width of the black border that is added before a random window of the original size is cut out.
        flip: mirror each image with probability 1/2.
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
        """Yield float32 images and their labels, every image once.

        Order and augmentation are a pure function of ``shuffle_seed``, on every device and for any number of processes.
        So an epoch can be replayed, or resumed at any batch, from its number alone.

        Args:
            batch_size: images per batch of all processes together; the last batch may be smaller.
            shuffle_seed: seed of the order and the augmentation. None keeps the stored order and does not augment.
            first: number of batches to skip; nothing is computed for them.
            part: rank and number of processes; each process gets its slice of every batch. With a seed the slices have
                equal sizes, for which the last batch is cut to a multiple of the number of processes.

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
        slices = list(batch_slices(len(self), batch_size, first=first, part=part, equal=shuffle_seed is not None))
        factor, offset = affine(self.mean, self.std, 1 if self.images.is_floating_point() else 255, device)
        plain = self.images.is_floating_point() and self.mean is None and self.std is None
        if shuffle_seed is not None:
            chunks = self._shuffled(slices, torch.Generator().manual_seed(shuffle_seed))
        else:
            chunks = ((self.images[a:b].clone(), self.labels[a:b].clone(), b - a) for a, b in slices)
        for images, labels, size in chunks:
            # These are copies: writing into a batch does not change the data set.
            pixels = images if plain else images.float().mul_(factor).add_(offset)
            yield from zip(pixels.split(size), labels.split(size))

    def _shuffled(
        self, slices: list[tuple[int, int]], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield augmented images and labels of several batches at once, and the size of a batch.

        All random numbers of the epoch are drawn, on the CPU: they do not depend on the batches that are skipped.
        """
        count, device, p = len(self), self.labels.device, self.padding
        order = torch.randperm(count, generator=generator)
        rows, columns = torch.randint(2 * p + 1, (2, count), generator=generator)
        mirrored = torch.randint(2, (count,), generator=generator) * self.flip
        if not slices:
            return
        positions = torch.cat([torch.arange(start, stop) for start, stop in slices])
        order, rows, columns, mirrored = (values[positions].to(device) for values in (order, rows, columns, mirrored))

        # Several batches at once need fewer kernel launches and synchronisations of threads.
        size = slices[0][1] - slices[0][0]
        most = size * max(1, _VALUES_AT_ONCE // self.images[:size].numel())
        _, channels, height, width = self.images.shape
        # The images on a black canvas, and with flips their mirror images on a second one.
        canvas = self.images.new_zeros(
            1 + self.flip, min(most, len(positions)), channels, height + 2 * p, width + 2 * p
        )
        inside, windows = canvas[..., p : p + height, p : p + width], window_view(canvas, height, width)
        in_canvas = rows * canvas.stride(3) + columns + mirrored * canvas.stride(0)
        canvas_starts = torch.arange(canvas.shape[1], device=device) * canvas.stride(1)
        for chosen, offsets in zip(order.split(most), in_canvas.split(most)):
            images = self.images.index_select(0, chosen)
            if p or self.flip:
                inside[0, : len(chosen)] = images
                if self.flip:
                    inside[1, : len(chosen)] = images.flip(3)
                starts = offsets + canvas_starts[: len(chosen)]
                # On the CPU index_select copies whole rows. On other devices it may first copy all windows.
                images = windows.index_select(0, starts) if device.type == "cpu" else windows[starts]
            yield images, self.labels[chosen], size


def affine(
    mean: Sequence[float] | None, std: Sequence[float] | None, white: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and offset ``(channels, 1, 1)`` for which ``factor * x + offset = (x / white - mean) / std``."""
    means = torch.tensor(0.0 if mean is None else mean, dtype=torch.float64)
    stds = torch.tensor(1.0 if std is None else std, dtype=torch.float64)
    constants = (1 / (white * stds), -means / stds)
    factor, offset = (constant.float().reshape(-1, 1, 1).to(device) for constant in constants)
    return factor, offset


def window_view(canvas: Tensor, height: int, width: int) -> Tensor:
    """A view ``(offsets, channels, height, width)``: entry k is the window that starts at offset k of the memory.

    Args:
        canvas: contiguous images ``(copies, n, channels, canvas height, canvas width)``.
        height: of a window.
        width: of a window.
    """
    shape, strides = (canvas.shape[2], height, width), canvas.stride()[2:]
    span = sum((size - 1) * stride for size, stride in zip(shape, strides))
    return canvas.as_strided((max(canvas.numel() - span, 0), *shape), (1, *strides))


class Splits(NamedTuple, Generic[T]):
    """Train on the first, evaluate the second during training, evaluate the third once after training."""

    train: T
    validation: T
    test: T
