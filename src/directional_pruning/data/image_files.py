"""Photographs of any size, ImageNet's for instance, decoded by worker processes while the network trains."""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..files import CorruptFileError
from .decode import decode
from .folder import Folder, class_names
from .images import Splits, affine
from .parquet import Shards, find_shards
from .splits import hold_out, shares

__all__ = ["Photos", "photos"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Rows of parquet files that are shuffled among each other, to which a last row group may add: enough to mix, and no
# more than every worker keeps in memory.
_POOL = 2048


@dataclass(frozen=True)
class Photos:
    """Labelled image files, of which batches come decoded, cropped, normalised and on the device.

    Args:
        source: where the files are.
        indices: ``(n,)``, which of its images belong to this set.
        device: where batches end.
        size: pixels of both sides of what the network sees.
        resize: pixels of the short side from which the centre is cut in evaluation.
        workers: processes that decode; 0 decodes in this one. Batches do not depend on it.
        mean: of each channel, for pixels from 0 to 1.
        std: of each channel.
    """

    source: Folder | Shards
    indices: Tensor
    device: torch.device
    size: int = 224
    resize: int = 256
    workers: int = 0
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __len__(self) -> int:
        return len(self.indices)

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, first: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 images ``(b, 3, size, size)`` and labels ``(b,)``; arguments as :meth:`Images.batches` has.

        With a seed: in random order, each image with a random box of 8 to 100 % of its area and mirrored at random, as
        a pure function of the seed and the image's number. Images of parquet files are shuffled in pools of row
        groups, which are in random order. Without: in stored order, the centre of each image.

        Raises:
            ValueError: as :meth:`Images.batches`.
            FileNotFoundError: for an image that has gone.
            CorruptFileError: for an image that cannot be read.
        """
        cuts = list(shares(len(self), batch_size, first=first, part=part, equal=shuffle_seed is not None))
        order = self.indices if shuffle_seed is None else self.indices[self._order(shuffle_seed)]
        work = _Decoding(self.source, self.size, self.resize, shuffle_seed, order, cuts)
        loader = DataLoader(
            work,
            batch_size=None,
            num_workers=min(self.workers, len(cuts)),
            pin_memory=self.device.type == "cuda",
            # Of its own: the loader draws a number, and the network's dropout must not notice.
            generator=torch.Generator(),
        )
        factor, offset = affine(self.mean, self.std, 255, self.device)
        for decoded, (start, stop) in zip(loader, cuts):
            if isinstance(decoded, Exception):
                raise decoded
            labels = self.source.labels[order[start:stop]]
            # From pinned memory the copy does not make the processor wait.
            pixels = decoded.to(self.device, non_blocking=True)
            yield pixels.float().mul_(factor).add_(offset), labels.to(self.device)

    def _order(self, seed: int) -> Tensor:
        """A random order that reads whole pools of row groups one after the other."""
        generator = torch.Generator().manual_seed(seed)
        groups = self.source.groups[self.indices]
        sizes = self.source.groups.bincount()  # with the images of other sets, which are read as well
        turns = torch.randperm(len(sizes), generator=generator)
        pools = torch.empty_like(turns)
        pools[turns] = (sizes[turns].cumsum(0) - sizes[turns]) // _POOL
        shuffled = torch.randperm(len(groups), generator=generator)
        return shuffled[pools[groups[shuffled]].argsort(stable=True)]


class _Decoding(Dataset[Tensor | Exception]):
    """What a worker does: its entries are decoded batches ``(b, 3, size, size)`` uint8."""

    def __init__(
        self,
        source: Folder | Shards,
        size: int,
        resize: int,
        seed: int | None,
        order: Tensor,
        cuts: list[tuple[int, int]],
    ) -> None:
        self.source, self.size, self.resize, self.seed, self.order, self.cuts = source, size, resize, seed, order, cuts

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> Tensor | Exception:
        start, stop = self.cuts[index]
        numbers = self.order[start:stop].tolist()
        images = torch.empty(len(numbers), 3, self.size, self.size, dtype=torch.uint8)
        try:
            for place, number in zip(images, numbers):
                # A string's digest seeds it, so that near seeds and numbers are as good as far ones.
                chance = None if self.seed is None else random.Random(f"{self.seed} {number}")
                encoded, name = self.source.encoded(number), self.source.name(number)
                place.copy_(decode(encoded, name, self.size, resize=self.resize, chance=chance))
        # Handed over rather than raised, because the loader would wrap it in a worker's traceback.
        except (CorruptFileError, OSError, ModuleNotFoundError) as error:
            return error
        return images


def photos(
    device: str | torch.device = "cpu",
    folder: str | os.PathLike[str] | None = None,
    *,
    classes: int,
    size: int = 224,
    resize: int = 256,
    validation: int | None = None,
    samples: int = 0,
    workers: int | None = None,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
) -> Splits[Photos]:
    """ImageNet or any other photographs, one class each.

    Args:
        folder: folders ``train/CLASS`` and ``val/CLASS`` (or ``validation`` or ``test``) of images, or parquet files
            ``train-*`` and ``validation-*`` (or ``val-*`` or ``test-*``). None is ``$DIRPRUNE_DATA``.
        classes: how many there must be. Parquet files may hold fewer.
        size: pixels of both sides of what the network sees.
        resize: pixels of the short side from which the centre is cut in evaluation, at least ``size``.
        validation: training images held out, with equal shares of the classes, always the same ones; None is one in
            50, at most 25,000. What is beside the training images is the test set. 0 is the paper's protocol: train on
            all of them, and watch the test set while training.
        samples: training images that are kept, with equal shares of the classes; 0 keeps all.
        workers: processes that decode; None is one for each core of this process.
        mean: of each channel, for pixels from 0 to 1.
        std: of each channel.

    Raises:
        ValueError: for an argument out of range or another number of classes.
        FileNotFoundError: where there are no such images.
        CorruptFileError: for a parquet file that cannot be read.
        ModuleNotFoundError: where Pillow or pyarrow is needed and not installed.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/cat", "val/cat"):
    ...         (Path(folder) / name).mkdir(parents=True)
    ...         Image.new("RGB", (60, 40)).save(Path(folder) / name / "1.jpg")
    ...     splits = photos("cpu", folder, classes=1, validation=0, workers=0)
    ...     inputs, labels = next(splits.test.batches(8))
    >>> inputs.shape, labels
    (torch.Size([1, 3, 224, 224]), tensor([0]))
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name, value, least in (("classes", classes, 1), ("size", size, 1), ("resize", resize, size)):
        if value < least:
            raise ValueError(f"invalid {name}: {value} (must be >= {least})")
    if workers < 0:
        raise ValueError(f"invalid workers: {workers} (must be >= 0)")
    if not (given := folder or os.environ.get("DIRPRUNE_DATA")):
        raise FileNotFoundError("photographs are not downloaded: name their folder with --data")
    path = Path(given)
    train, test, found = _sources(path)
    if found > classes or (found < classes and isinstance(train, Folder)):
        raise ValueError(f"{path} holds {found} classes, the network has {classes}: give --num-classes {found}")
    for labels in (train.labels, test.labels):
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise ValueError(f"{path} has labels that are not in 0..{classes - 1}")

    if validation is None:
        validation = min(max(len(train) // 50, 1), 25_000)
    kept, held = hold_out(train.labels, validation, samples)

    def of(source: Folder | Shards, indices: Tensor) -> Photos:
        return Photos(source, indices, torch.device(device), size, resize, workers, mean, std)

    tested = of(test, torch.arange(len(test)))
    return Splits(of(train, kept), of(train, held) if validation else tested, tested)


def _sources(path: Path) -> tuple[Folder | Shards, Folder | Shards, int]:
    """Training images, test images, and the number of classes."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder")
    if files := find_shards(path, "train"):
        tests = next((found for split in ("validation", "val", "test") if (found := find_shards(path, split))), [])
        if not tests:
            raise FileNotFoundError(f"{path} has training images but no validation-*.parquet")
        train, test = Shards(files), Shards(tests)
        return train, test, int(max(train.labels.max(), test.labels.max())) + 1
    if not (path / "train").is_dir():
        raise FileNotFoundError(f"{path} holds neither a folder train nor train-*.parquet")
    beside = next((path / name for name in ("val", "validation", "test") if (path / name).is_dir()), None)
    if beside is None:
        raise FileNotFoundError(f"{path} has training images but no folder val")
    names = class_names(path / "train")
    return Folder(path / "train", names), Folder(beside, names), len(names)
