"""Images in parquet files, as data sets on the Hub come: the encoded file in one column, the class in another."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import CorruptFileError
from .decode import missing

__all__ = ["Shards", "find_shards"]


def find_shards(folder: Path, split: str) -> list[Path]:
    """The files ``split-*.parquet`` of a folder or of its folder ``data``, in order."""
    return sorted(folder.glob(f"{split}-*.parquet")) or sorted((folder / "data").glob(f"{split}-*.parquet"))


class Shards:
    """The images of several parquet files, numbered through; ``labels`` ``(n,)`` int64 are read at once.

    ``groups`` ``(n,)`` says which row group an image lies in: a group is the least that can be read, so a good order
    stays in few groups for a while.

    Args:
        files: parquet files with a column ``img`` or ``image``, of bytes or of a struct with ``bytes``, and an integer
            column ``label`` or ``fine_label``.
        held: rows of which the encoded images are kept in memory, at least; and those of the largest group beside them.

    Raises:
        CorruptFileError: for a file that is no such parquet file.
        ModuleNotFoundError: where pyarrow is not installed.
    """

    def __init__(self, files: Sequence[Path], held: int = 2048) -> None:
        self.files = list(files)
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()
        self._places: list[tuple[int, int]] = []
        self._begins: list[int] = []  # each file's first image
        labels, sizes = [], []
        for number, file in enumerate(self.files):
            read, groups = self._column(file, None, _LABELS)
            self._begins.append(sum(sizes))
            labels.append(read)
            sizes += groups
            self._places += [(number, group) for group in range(len(groups))]
        if not sum(sizes):
            raise CorruptFileError(f"{self.files[0]} holds no images")
        self._held = held + max(sizes)
        self.labels = torch.cat([torch.tensor(values, dtype=torch.int64) for values in labels])
        self.groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self._starts = [0, *torch.tensor(sizes).cumsum(0).tolist()]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What an error calls an image."""
        number, _ = self._places[int(self.groups[index])]
        return f"{self.files[number]} (row {index - self._begins[number]})"

    def encoded(self, index: int) -> bytes:
        """The bytes of an image file. Whole row groups are read, and the last few are kept.

        Raises:
            CorruptFileError: for a file that cannot be read, or a row without an image.
        """
        group = int(self.groups[index])
        if group not in self._kept:
            number, place = self._places[group]
            self._kept[group] = self._column(self.files[number], place, _IMAGES)[0]
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) - len(self._oldest()) >= self._held:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        found = self._kept[group][index - self._starts[group]]
        if not isinstance(found, bytes):
            raise CorruptFileError(f"{self.name(index)} is not a readable image")
        return found

    def _oldest(self) -> list[bytes]:
        return next(iter(self._kept.values()))

    @staticmethod
    def _column(file: Path, group: int | None, names: Sequence[str]) -> tuple[list[Any], list[int]]:
        """A column of one row group or of all, under the first of its names that is there; and all groups' sizes."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError as error:
            raise missing("parquet files", "pyarrow") from error
        try:
            # Without threads, which a process that is about to fork must not have.
            with pq.ParquetFile(file) as opened:
                leaves = [opened.schema.column(i).path for i in range(len(opened.schema.names))]
                name = next((name for name in names if name in leaves), None)
                if name is None:
                    raise CorruptFileError(f"{file} has no column {' or '.join(names)}")
                if group is None:
                    table = opened.read(columns=[name], use_threads=False)
                else:
                    table = opened.read_row_group(group, columns=[name], use_threads=False)
                # Flattened: the bytes alone, where they are a member of a struct.
                values = table.flatten().column(0).to_pylist()
                sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.metadata.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise CorruptFileError(f"{file} is not a readable parquet file") from error
        if group is None and not all(isinstance(value, int) for value in values):
            raise CorruptFileError(f"{file} has labels that are not whole numbers")
        return values, sizes


_LABELS = ("label", "fine_label", "labels")
_IMAGES = ("img.bytes", "image.bytes", "img", "image")
