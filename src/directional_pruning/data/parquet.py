"""Images in parquet files: one column of encoded image files, one of classes."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import CorruptFileError
from .decode import missing_package

__all__ = ["Shards", "find_shards"]

_LABELS = ("label", "fine_label", "labels")
_IMAGES = ("img.bytes", "image.bytes", "img", "image")


def find_shards(folder: Path, split: str) -> list[Path]:
    """The files ``split-*.parquet`` of a folder, or else of its folder ``data``, sorted."""
    return sorted(folder.glob(f"{split}-*.parquet")) or sorted((folder / "data").glob(f"{split}-*.parquet"))


class Shards:
    """The images of several parquet files as a numbered sequence, with ``labels`` ``(n,)`` int64.

    ``groups`` ``(n,)`` is the row group of each image. Only whole row groups can be read, so a fast order stays in few
    groups for a while.

    Args:
        files: parquet files with a column ``img`` or ``image``, of bytes or of a struct with ``bytes``, and an integer
            column ``label`` or ``fine_label``.
        cache_rows: encoded images that are cached in memory, in addition to those of the largest row group.

    Raises:
        CorruptFileError: for a file that cannot be read or has no such columns.
        ModuleNotFoundError: if pyarrow is not installed.
    """

    def __init__(self, files: Sequence[Path], cache_rows: int = 2048) -> None:
        self.files = list(files)
        self._cache: OrderedDict[int, list[bytes]] = OrderedDict()
        self._group_places: list[tuple[int, int]] = []  # number of the file, and of the group in it
        self._file_starts: list[int] = []  # number of each file's first image
        labels, sizes = [], []
        for number, file in enumerate(self.files):
            file_labels, file_sizes = _read_column(file, None, _LABELS)
            self._file_starts.append(sum(sizes))
            labels.append(file_labels)
            sizes += file_sizes
            self._group_places += [(number, group) for group in range(len(file_sizes))]
        if not sum(sizes):
            raise CorruptFileError(f"{self.files[0]} holds no images")
        self._cache_rows = cache_rows + max(sizes)
        self.labels = torch.cat([torch.tensor(values, dtype=torch.int64) for values in labels])
        self.groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self._group_starts = [0, *torch.tensor(sizes).cumsum(0).tolist()]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The name of an image in an error."""
        number, _ = self._group_places[int(self.groups[index])]
        return f"{self.files[number]} (row {index - self._file_starts[number]})"

    def encoded(self, index: int) -> bytes:
        """The bytes of an image file. Reads its whole row group, unless that is in the cache.

        Raises:
            CorruptFileError: for a file that cannot be read, or a row without an image.
        """
        group = int(self.groups[index])
        if group not in self._cache:
            number, place = self._group_places[group]
            self._cache[group] = _read_column(self.files[number], place, _IMAGES)[0]
            self._evict()
        self._cache.move_to_end(group)
        content = self._cache[group][index - self._group_starts[group]]
        if not isinstance(content, bytes):
            raise CorruptFileError(f"{self.name(index)} is not a readable image")
        return content

    def _evict(self) -> None:
        """Drop the groups that were used longest ago, while the others fill the cache."""
        rows = sum(map(len, self._cache.values()))
        while len(self._cache) > 1:
            rows -= len(next(iter(self._cache.values())))
            if rows < self._cache_rows:
                return
            self._cache.popitem(last=False)


def _read_column(file: Path, group: int | None, names: Sequence[str]) -> tuple[list[Any], list[int]]:
    """Values of a column, of one row group or (None) of all, and the sizes of all row groups.

    The column is the first of ``names`` that the file has.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise missing_package("parquet files", "pyarrow") from error
    try:
        # Without threads: a process that starts workers by fork must not have any.
        with pq.ParquetFile(file) as opened:
            paths = [opened.schema.column(i).path for i in range(len(opened.schema.names))]
            name = next((name for name in names if name in paths), None)
            if name is None:
                raise CorruptFileError(f"{file} has no column {' or '.join(names)}")
            if group is None:
                table = opened.read(columns=[name], use_threads=False)
            else:
                table = opened.read_row_group(group, columns=[name], use_threads=False)
            # A struct with bytes becomes a column of bytes.
            values = table.flatten().column(0).to_pylist()
            sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.metadata.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise CorruptFileError(f"{file} is not a readable parquet file") from error
    if group is None and not all(isinstance(value, int) for value in values):
        raise CorruptFileError(f"{file} has labels that are not whole numbers")
    return values, sizes
