"""Images in folders, one folder a class."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

__all__ = ["Folder", "class_names"]

# What Pillow decodes among the formats in which data sets come.
_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def class_names(folder: Path) -> list[str]:
    """The names of the folders in ``folder``, sorted: the first is class 0.

    Raises:
        FileNotFoundError: where there is none.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise FileNotFoundError(f"{folder} has no folders of images, one for each class")
    return names


class Folder:
    """The images of a folder that has a folder for each class, numbered through, and their ``labels`` ``(n,)`` int64.

    Args:
        folder: holds ``CLASS/*.png`` and the like; folders in a class's folder are its as well.
        names: the classes in order. Not all need to be there, but no others.

    Raises:
        ValueError: for a folder that is none of the classes.
        FileNotFoundError: where there are no images, or none of a class.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        known = {name: number for number, name in enumerate(names)}
        self.folder = folder
        names_of_classes: list[bytes] = []
        lengths: list[int] = [0]
        labels: list[int] = []
        for name in class_names(folder):
            if name not in known:
                raise ValueError(f"{folder / name} is a class without training images")
            found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in _ENDINGS)
            if not found:
                raise FileNotFoundError(f"{folder / name} has no images")
            # All names one after the other: a path each would fill every worker's memory.
            encoded = [os.fsencode(path.relative_to(folder)) for path in found]
            names_of_classes.append(b"".join(encoded))
            lengths += map(len, encoded)
            labels += [known[name]] * len(found)
        self._names = b"".join(names_of_classes)
        self._ends = torch.tensor(lengths).cumsum(0)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        # Any order is as good: files are read one by one.
        self.groups = torch.zeros(len(labels), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What an error calls an image."""
        return str(self.encoded(index))

    def encoded(self, index: int) -> Path:
        """The image file."""
        begin, end = self._ends[index : index + 2].tolist()
        return self.folder / os.fsdecode(self._names[begin:end])
