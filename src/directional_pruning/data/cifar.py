"""CIFAR-10 and CIFAR-100, from whatever they come in, as one tensor on the device."""

import os
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

_URL = "https://www.cs.toronto.edu/~kriz/"
_PUBLISHED = {
    10: ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    100: ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
}

_FORMS = {
    10: ("batches-py", "batches-bin", "python.tar.gz", "binary.tar.gz"),
    100: ("python", "binary", "python.tar.gz", "binary.tar.gz"),
}

Sets = tuple[Tensor, Tensor, Tensor, Tensor]


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
        folder: any of these: parquet files ``train-*`` and ``test-*``; the authors' archive, for Python or binary, or
            a folder with it, or what it extracts to, or the folder that is in; folders ``train/CLASS`` and
            ``test/CLASS`` of images. None is ``$DIRPRUNE_DATA``, or else a cache folder into which the archive is
            downloaded once.
        mean: of each channel, for pixels from 0 to 1.
        std: of each channel.
        validation: training images held out, with equal shares of the classes, always the same ones; None is a tenth
            of them, 5,000. 0 is the paper's protocol: train on all of them, and watch the test set while training.
        samples: training images that are kept, with equal shares of the classes; 0 keeps all.

    Raises:
        ValueError: for an argument out of range or labels that are not of this data set.
        FileNotFoundError: where the data set is not found.
        CorruptFileError: for a file that cannot be read.
        ModuleNotFoundError: where Pillow or pyarrow is needed and not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("data_batch_1.bin", "test_batch.bin"):  # four black images of class 0
    ...         _ = (Path(folder) / name).write_bytes(bytes(4 * 3073))
    ...     splits = cifar10(folder=folder, validation=1)
    >>> [len(split) for split in splits]
    [3, 1, 4]
    """
    return _cifar(10, device, folder, mean, std, validation, samples)


def cifar100(
    device: str | torch.device = "cpu",
    folder: str | os.PathLike[str] | None = None,
    *,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    validation: int | None = None,
    samples: int = 0,
) -> Splits[Images]:
    """As :func:`cifar10`, with 100 classes (the fine labels)."""
    return _cifar(100, device, folder, mean, std, validation, samples)


def _cifar(
    classes: int,
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
    if given := folder or os.environ.get("DIRPRUNE_DATA"):
        path = Path(given)
    else:
        name, md5 = _PUBLISHED[classes]
        path = fetch(_URL + name, cache_folder() / name, md5)
    images, labels, test_images, test_labels = _read(path, classes)
    for values in (labels, test_labels):
        if not len(values) or int(values.min()) < 0 or int(values.max()) >= classes:
            raise ValueError(f"{path} has labels that are not in 0..{classes - 1}: it is not CIFAR-{classes}")

    validation = max(len(labels) // 10, 1) if validation is None else validation
    train, held = hold_out(labels, validation, samples)
    images, labels = images.to(device), labels.to(device)
    test = Images(test_images.to(device), test_labels.to(device), mean, std)
    return Splits(
        Images(images[train.to(device)], labels[train.to(device)], mean, std, padding=4, flip=True),
        Images(images[held.to(device)], labels[held.to(device)], mean, std) if validation else test,
        test,
    )


def _read(path: Path, classes: int) -> Sets:
    """Look for each of the forms in turn."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file() and (train := find_shards(path, "train")):
        return _both(Shards(train), Shards(_there(find_shards(path, "test"), path, "test-*.parquet")))
    forms = [f"cifar-{classes}-{form}" for form in _FORMS[classes]]
    for place in [path] if path.is_file() else [path, *(path / form for form in forms)]:
        if place.exists() and (found := read_archive(place, classes)) is not None:
            return found
    if (path / "train").is_dir():
        names = class_names(path / "train")
        if len(names) != classes:
            raise ValueError(f"{path / 'train'} holds {len(names)} classes, not {classes}")
        test = _there([path / "test"] if (path / "test").is_dir() else [], path, "test")[0]
        return _both(Folder(path / "train", names), Folder(test, names))
    if path.is_file():
        raise CorruptFileError(f"{path} is not an archive of CIFAR-{classes}")
    raise FileNotFoundError(f"{path} holds no CIFAR-{classes}: neither {', '.join(forms)}, train-*.parquet nor train/")


def _there(found: list[Path], path: Path, what: str) -> list[Path]:
    if not found:
        raise FileNotFoundError(f"{path} has training images but no {what}")
    return found


def _both(*sources: Shards | Folder) -> Sets:
    images = [torch.stack([decode(s.encoded(i), s.name(i), 32) for i in range(len(s))]) for s in sources]
    return images[0], sources[0].labels, images[1], sources[1].labels
