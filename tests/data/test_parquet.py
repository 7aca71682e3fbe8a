"""Images in parquet files: row groups are cached, and read once per epoch."""

from dataclasses import replace

import pytest
import torch
from data_samples import joined, load_photos, photograph

from directional_pruning.data.parquet import Shards


@pytest.fixture
def pools_of_eight_rows(monkeypatch):
    """The test data have 30 rows, which would all be in one pool of the real size."""
    monkeypatch.setattr("directional_pruning.data.image_files.POOL_ROWS", 8)


@pytest.mark.usefixtures("pools_of_eight_rows")
def test_every_photo_is_in_an_epoch_once_and_pools_of_row_groups_stay_together(parquet):
    train = load_photos(parquet, validation=0).train
    train.source.labels = torch.arange(30)  # so that the labels of a batch are the numbers of its images
    order, other = (joined(train.batches(4, shuffle_seed=seed))[1] for seed in (3, 4))
    assert sorted(order.tolist()) == list(range(30))
    groups = train.source.groups[order]
    assert train.source.groups.bincount().tolist() == [4, 4, 2, 4, 4, 4, 4, 4]
    open_groups = [len(set(groups[:end].tolist()) & set(groups[end:].tolist())) for end in range(1, 30)]
    assert 0 in open_groups, "no pool ends anywhere"
    assert max(open_groups) <= 3
    assert open_groups.count(0) < 5, "pools are no larger than groups"
    assert not torch.equal(order, other)


def test_shards_cache_few_row_groups(parquet, reads):
    shards = Shards(sorted(parquet.glob("train-*")), cache_rows=8)
    assert [shards.encoded(i) for i in range(30)] == [photograph(i) for i in range(30)]
    assert len(reads) == 8
    assert [shards.encoded(i) for i in range(18, 30)] == [photograph(i) for i in range(18, 30)]
    assert len(reads) == 8, "the last three row groups, twelve rows, are cached"
    assert shards.encoded(17) == photograph(17)
    assert len(reads) == 9, "and no others"


@pytest.mark.usefixtures("pools_of_eight_rows")
@pytest.mark.parametrize("samples", [0, 6])
def test_an_epoch_reads_each_row_group_once(samples, parquet, reads):
    train = load_photos(parquet, validation=10, samples=samples).train
    train = replace(train, source=Shards(train.source.files, cache_rows=8))
    list(train.batches(4, shuffle_seed=1))
    assert len(reads) == len(train.source.groups[train.indices].unique())


def test_parquet_may_hold_fewer_classes_but_not_more(parquet):
    assert len(load_photos(parquet, classes=1000).test) == 10
    with pytest.raises(ValueError, match="holds 2 classes, the network has 1: give --num-classes 2"):
        load_photos(parquet, classes=1)
