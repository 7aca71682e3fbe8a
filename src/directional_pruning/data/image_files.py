"""Photographs of any size, such as ImageNet, decoded by worker processes while the network trains."""

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
from .splits import batch_slices, hold_out

__all__ = ["Photos", "photos"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Row groups of parquet files are shuffled together in pools of at least this many rows: enough to mix the images, and
# no more than every worker caches.
POOL_ROWS = 2048


@dataclass(frozen=True)
class Photos:
    """Labelled image files; batches are decoded, cropped, normalised and copied to the device.

    Args:
        source: the files and their labels.
        indices: ``(n,)`` numbers of the images in ``source`` that belong to this set.
        device: where batches are copied.
        size: pixels per side of the network's input.
        resize: in evaluation, pixels of the short side to which an image is scaled before its centre is cut out.
        workers: processes that decode; 0 decodes in this process. Batches do not depend on it.
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
        """Yield float32 images ``(b, 3, size, size)`` and labels ``(b,)``; arguments as of :meth:`Images.batches`.

        With a seed the order is random, and each image is a random box of 8 to 100 % of its area, mirrored with
        probability 1/2: a pure function of the seed and the image's number. Images of parquet files are shuffled in
        pools of row groups, and the order of the pools is random. Without a seed the images come in stored order, and
        each is the centre of its file's image.

        Raises:
            ValueError: as :meth:`Images.batches`.
            FileNotFoundError: for an image file that no longer exists.
            CorruptFileError: for an image that cannot be read.
        """
        slices = list(batch_slices(len(self), batch_size, first=first, part=part, equal=shuffle_seed is not None))
        order = self.indices if shuffle_seed is None else self.indices[self._order(shuffle_seed)]
        work = _Decoding(self.source, self.size, self.resize, shuffle_seed, order, slices)
        loader = DataLoader(
            work,
            batch_size=None,
            num_workers=min(self.workers, len(slices)),
            pin_memory=self.device.type == "cuda",
            # A separate generator: the loader draws a number, which must not change the network's dropout.
            generator=torch.Generator(),
        )
        factor, offset = affine(self.mean, self.std, 255, self.device)
        for decoded, (start, stop) in zip(loader, slices):
            if isinstance(decoded, Exception):
                raise decoded
            labels = self.source.labels[order[start:stop]]
            # From pinned memory the copy does not block the CPU.
            pixels = decoded.to(self.device, non_blocking=True)
            yield pixels.float().mul_(factor).add_(offset), labels.to(self.device)

    def _order(self, seed: int) -> Tensor:
        """A random order of the positions that finishes one pool of row groups before it starts the next."""
        generator = torch.Generator().manual_seed(seed)
        groups = self.source.groups[self.indices]
        sizes = self.source.groups.bincount()  # including images of other sets, which are read too
        group_order = torch.randperm(len(sizes), generator=generator)
        pools = torch.empty_like(group_order)
        pools[group_order] = (sizes[group_order].cumsum(0) - sizes[group_order]) // POOL_ROWS
        shuffled = torch.randperm(len(groups), generator=generator)
        return shuffled[pools[groups[shuffled]].argsort(stable=True)]


@dataclass(frozen=True, eq=False)
class _Decoding(Dataset[Tensor | Exception]):
    """The work of a worker: entry i is the decoded batch i, ``(b, 3, size, size)`` uint8."""

    source: Folder | Shards
    size: int
    resize: int
    seed: int | None
    order: Tensor
    slices: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> Tensor | Exception:
        start, stop = self.slices[index]
        numbers = self.order[start:stop].tolist()
        images = torch.empty(len(numbers), 3, self.size, self.size, dtype=torch.uint8)
        try:
            for image, number in zip(images, numbers):
                # Python seeds with the digest of the string: near seeds and numbers give unrelated random numbers.
                rng = None if self.seed is None else random.Random(f"{self.seed} {number}")
                encoded, name = self.source.encoded(number), self.source.name(number)
                image.copy_(decode(encoded, name, self.size, resize=self.resize, rng=rng))
        # Returned, not raised: the loader would add the worker's traceback to the message.
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
        device: where batches are copied.
        folder: contains folders ``train/CLASS`` and ``val/CLASS`` (or ``validation`` or ``test``) of images, or parquet
            files ``train-*`` and ``validation-*`` (or ``val-*`` or ``test-*``). None is ``$DIRPRUNE_DATA``. The second
            folder, or the second set of files, is the test set.
        classes: number of classes. Parquet files may have fewer.
        size: pixels per side of the network's input.
        resize: in evaluation, pixels of the short side to which an image is scaled before its centre is cut out; at
            least ``size``.
        validation: number of training images held out, stratified by class and always the same ones; None is one in
            50, at most 25,000. 0 is the paper's protocol: train on all images and evaluate the test set during
            training.
        samples: number of training images that are used, stratified by class; 0 uses all.
        workers: processes that decode; None is one for each core that this process may use.
        mean: of each channel, for pixels from 0 to 1.
        std: of each channel.

    Raises:
        ValueError: for an argument out of range or another number of classes.
        FileNotFoundError: if there are no such images.
        CorruptFileError: for a parquet file that cannot be read.
        ModuleNotFoundError: if Pillow or pyarrow is needed and not installed.

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
    workers = _available_cores() if workers is None else workers
    limits = (("classes", classes, 1), ("size", size, 1), ("resize", resize, size), ("workers", workers, 0))
    for name, value, least in limits:
        if value < least:
            raise ValueError(f"invalid {name}: {value} (must be >= {least})")
    if not (folder := folder or os.environ.get("DIRPRUNE_DATA")):
        raise FileNotFoundError("photographs are not downloaded: name their folder with --data")
    train, test = _sources(Path(folder), classes)
    if validation is None:
        validation = min(max(len(train) // 50, 1), 25_000)
    train_indices, held_out = hold_out(train.labels, validation, samples)

    def subset(source: Folder | Shards, indices: Tensor) -> Photos:
        return Photos(source, indices, torch.device(device), size, resize, workers, mean, std)

    test_set = subset(test, torch.arange(len(test)))
    return Splits(subset(train, train_indices), subset(train, held_out) if validation else test_set, test_set)


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sources(path: Path, classes: int) -> tuple[Folder | Shards, Folder | Shards]:
    """Training and test images, whose labels are in 0..``classes - 1``."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder")
    if files := find_shards(path, "train"):
        splits = (find_shards(path, name) for name in ("validation", "val", "test"))
        if not (test_files := next(filter(None, splits), None)):
            raise FileNotFoundError(f"{path} has training images but no validation-*.parquet")
        train, test = Shards(files), Shards(test_files)
        count = int(max(train.labels.max(), test.labels.max())) + 1
        matches = count <= classes
    elif (path / "train").is_dir():
        folders = (path / name for name in ("val", "validation", "test"))
        if not (test_folder := next(filter(Path.is_dir, folders), None)):
            raise FileNotFoundError(f"{path} has training images but no folder val")
        names = class_names(path / "train")
        train, test = Folder(path / "train", names), Folder(test_folder, names)
        count = len(names)
        matches = count == classes
    else:
        raise FileNotFoundError(f"{path} holds neither a folder train nor train-*.parquet")
    if not matches:
        raise ValueError(f"{path} holds {count} classes, the network has {classes}: give --num-classes {count}")
    if min(int(train.labels.min()), int(test.labels.min())) < 0:
        raise ValueError(f"{path} has labels that are not in 0..{classes - 1}")
    return train, test
