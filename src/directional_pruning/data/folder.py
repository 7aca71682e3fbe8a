"""Images in folders, one folder per class."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

__all__ = ["Folder", "class_names"]

# Formats of data sets that Pillow can decode.
_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def class_names(folder: Path) -> list[str]:
    """The names of the folders in ``folder``, sorted: the first is class 0.

    Raises:
        FileNotFoundError: if there is none.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise FileNotFoundError(f"{folder} has no folders of images, one for each class")
    return names


class Folder:
    """The images of a folder with one folder per class, as a numbered sequence with ``labels`` ``(n,)`` int64.

    Args:
        folder: contains ``CLASS/*.png`` and the like, also in folders inside a class's folder.
        names: the classes in order. Some may be absent from ``folder``, but it may contain no others.

    Raises:
        ValueError: for a folder that is not one of the classes.
        FileNotFoundError: if there are no images, or a class's folder has none.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        class_numbers = {name: number for number, name in enumerate(names)}
        self.folder = folder
        joined_names: list[bytes] = []
        lengths: list[int] = [0]
        labels: list[int] = []
        for name in class_names(folder):
            if name not in class_numbers:
                raise ValueError(f"{folder / name} is a class without training images")
            paths = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in _ENDINGS)
            if not paths:
                raise FileNotFoundError(f"{folder / name} has no images")
            # One string of all names: a Path per image would fill the memory of every worker.
            encoded = [os.fsencode(path.relative_to(folder)) for path in paths]
            joined_names.append(b"".join(encoded))
            lengths += map(len, encoded)
            labels += [class_numbers[name]] * len(paths)
        self._names = b"".join(joined_names)
        self._ends = torch.tensor(lengths).cumsum(0)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        # One group: files are read one by one, so every order costs the same.
        self.groups = torch.zeros(len(labels), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The name of an image in an error."""
        return str(self.encoded(index))

    def encoded(self, index: int) -> Path:
        """The path of an image file."""
        begin, end = self._ends[index : index + 2].tolist()
        return self.folder / os.fsdecode(self._names[begin:end])
