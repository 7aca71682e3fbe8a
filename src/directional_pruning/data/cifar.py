"""CIFAR-10 and CIFAR-100 from archives, parquet files or folders of images, as one tensor on the device."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files import CorruptFileError
from .cifar_archive import read_archive
from .decode import decode
from .download import cache_folder, fetch
from .folder import Folder, class_names
from .images import Images, Splits
from .parquet import Shards, find_shards
from .splits import hold_out

__all__ = ["cifar10", "cifar100"]

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class _Variant:
    """One of the two data sets.

    Args:
        classes: 10 or 100.
        md5: checksum of the published archive.
        names: what the archives and their extracted folders are called. The third is published, and is downloaded.
    """

    classes: int
    md5: str
    names: tuple[str, str, str, str]

    def __str__(self) -> str:
        return f"CIFAR-{self.classes}"


_URL = "https://www.cs.toronto.edu/~kriz/"
_CIFAR10 = _Variant(
    10,
    "c58f30108f718f92721af3b95e74349a",
    ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
)
_CIFAR100 = _Variant(
    100,
    "eb9058c3a382ffc7106e4002c42a8d85",
    ("cifar-100-python", "cifar-100-binary", "cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
)

# Training images and labels, then test images and labels.
Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


def cifar10(
    device: str | torch.device = "cpu",
    folder: str | os.PathLike[str] | None = None,
    *,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    validation: int | None = None,
    samples: int = 0,
) -> Splits[Images]:
    """Colour images of 32 x 32 pixels in ten classes: 50,000 to train and validate, 10,000 to test.

    Training images are cropped with 4 pixels of padding, mirrored and normalised, as in the paper. Source:
    A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Args:
        device: where the images are stored.
        folder: a folder with parquet files ``train-*`` and ``test-*``, or with folders ``train/CLASS`` and
            ``test/CLASS`` of images; or the authors' archive (for Python or binary), its extracted folder, or a folder
            that contains one of the two. None is ``$DIRPRUNE_DATA`` if it is set; otherwise the archive is downloaded
            once into a cache folder.
        mean: of each channel, for pixels from 0 to 1.
        std: of each channel.
        validation: number of training images held out, stratified by class and always the same ones; None is a tenth
            of them, 5,000. 0 is the paper's protocol: train on all images and evaluate the test set during training.
        samples: number of training images that are used, stratified by class; 0 uses all.

    Raises:
        ValueError: for an argument out of range or labels that are not of this data set.
        FileNotFoundError: if the data set is not there.
        CorruptFileError: for a file that cannot be read.
        ModuleNotFoundError: if Pillow or pyarrow is needed and not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("data_batch_1.bin", "test_batch.bin"):  # four black images of class 0
    ...         _ = (Path(folder) / name).write_bytes(bytes(4 * 3073))
    ...     splits = cifar10(folder=folder, validation=1)
    >>> [len(split) for split in splits]
    [3, 1, 4]
    """
    return _load(_CIFAR10, device, folder, mean, std, validation, samples)


def cifar100(
    device: str | torch.device = "cpu",
    folder: str | os.PathLike[str] | None = None,
    *,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    validation: int | None = None,
    samples: int = 0,
) -> Splits[Images]:
    """Like :func:`cifar10`, with 100 classes (the fine labels)."""
    return _load(_CIFAR100, device, folder, mean, std, validation, samples)


def _load(
    variant: _Variant,
    device: str | torch.device,
    folder: str | os.PathLike[str] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    validation: int | None,
    samples: int,
) -> Splits[Images]:
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or (name == "std" and min(values) <= 0):
            raise ValueError(f"invalid {name}: {values} (must be three{' positive' * (name == 'std')} numbers)")
    if folder := folder or os.environ.get("DIRPRUNE_DATA"):
        path = Path(folder)
    else:
        archive = variant.names[2]
        path = fetch(_URL + archive, cache_folder() / archive, variant.md5)
    images, labels, test_images, test_labels = _read(path, variant)
    for values in (labels, test_labels):
        if not len(values) or int(values.min()) < 0 or int(values.max()) >= variant.classes:
            raise ValueError(f"{path} has labels that are not in 0..{variant.classes - 1}: it is not {variant}")

    validation = max(len(labels) // 10, 1) if validation is None else validation
    train, held_out = hold_out(labels, validation, samples)
    images, labels = images.to(device), labels.to(device)
    test = Images(test_images.to(device), test_labels.to(device), mean, std)
    return Splits(
        Images(images[train.to(device)], labels[train.to(device)], mean, std, padding=4, flip=True),
        Images(images[held_out.to(device)], labels[held_out.to(device)], mean, std) if validation else test,
        test,
    )


def _read(path: Path, variant: _Variant) -> Tensors:
    """Read the first format that is there: parquet files, archives, folders of images."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir() and (train := find_shards(path, "train")):
        if not (test := find_shards(path, "test")):
            raise FileNotFoundError(f"{path} has training images but no test-*.parquet")
        return _decode_all(Shards(train), Shards(test))
    candidates = [path] if path.is_file() else [path, *(path / name for name in variant.names)]
    for candidate in candidates:
        if candidate.exists() and (tensors := read_archive(candidate, variant.classes)) is not None:
            return tensors
    if (path / "train").is_dir():
        return _read_folders(path, variant)
    if path.is_file():
        raise CorruptFileError(f"{path} is not an archive of {variant}")
    raise FileNotFoundError(
        f"{path} holds no {variant}: neither {', '.join(variant.names)}, train-*.parquet nor train/"
    )


def _read_folders(path: Path, variant: _Variant) -> Tensors:
    names = class_names(path / "train")
    if len(names) != variant.classes:
        raise ValueError(f"{path / 'train'} holds {len(names)} classes, not {variant.classes}")
    if not (path / "test").is_dir():
        raise FileNotFoundError(f"{path} has training images but no test")
    return _decode_all(Folder(path / "train", names), Folder(path / "test", names))


def _decode_all(train: Shards | Folder, test: Shards | Folder) -> Tensors:
    images, test_images = (
        torch.stack([decode(s.encoded(i), s.name(i), 32) for i in range(len(s))]) for s in (train, test)
    )
    return images, train.labels, test_images, test.labels
