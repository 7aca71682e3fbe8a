"""The same photographs as folders and as parquet files."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_samples import photograph

COUNTS = {"train": 30, "val": 10}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two classes: the first half of each split, and the rest."""
    folder = tmp_path_factory.mktemp("folders")
    for split, count in COUNTS.items():
        for number in range(count):
            path = folder / split / ("ape", "bee")[2 * number // count] / f"{number:03}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photograph(number))
    return folder


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """The same as shards: two files to train, row groups of four."""
    folder = tmp_path_factory.mktemp("parquet")
    for split, count in COUNTS.items():
        name = "validation" if split == "val" else split
        for shard, part in enumerate((range(count // 3), range(count // 3, count))):
            rows = {
                "image": [{"bytes": photograph(i), "path": None} for i in part],
                "label": [2 * i // count for i in part],
            }
            pq.write_table(pa.table(rows), folder / f"{name}-{shard:05}-of-00002.parquet", row_group_size=4)
    return folder


@pytest.fixture
def reads(monkeypatch):
    """The row groups that were read, each by its number in its file."""
    numbers, read = [], pq.ParquetFile.read_row_group

    def read_and_count(file, number, **options):
        numbers.append(number)
        return read(file, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_and_count)
    return numbers
