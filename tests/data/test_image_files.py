"""Photographs from folders and parquet files, decoded by workers."""

import pickle
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_samples import joined, load_photos, same, truncate

from directional_pruning.data import image_files
from directional_pruning.files import CorruptFileError

pytestmark = [
    # Python 3.12 and later warn about every forked worker, because torch has threads; torch's loader allows for that.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def test_photos_of_folders_and_parquet_are_the_same(folders, parquet):
    left, right = load_photos(folders, validation=6), load_photos(parquet, validation=6)
    assert [len(part) for part in left] == [len(part) for part in right] == [24, 6, 10]
    for left_part, right_part in zip(left, right, strict=True):
        assert same(left_part.batches(4), right_part.batches(4))
        images, labels = joined(left_part.batches(4))
        assert images.shape == (len(left_part), 3, 24, 24)
        assert labels.bincount().tolist() == [len(left_part) // 2] * 2
    # The orders differ, because parquet files have row groups, but an image has the same box in both.
    pairs = [
        sorted((int(y), image.sum().item()) for x, y in s.train.batches(4, shuffle_seed=1) for image, y in zip(x, y))
        for s in (left, right)
    ]
    assert pairs[0] == pairs[1]


@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_workers_change_nothing_and_neither_does_the_global_generator(kind, request):
    folder = request.getfixturevalue(kind)
    splits, with_workers = load_photos(folder, validation=0), load_photos(folder, validation=0, workers=2)
    before = torch.get_rng_state()
    for seed in (None, 5):
        assert same(splits.train.batches(4, shuffle_seed=seed), with_workers.train.batches(4, shuffle_seed=seed))
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(splits.train.batches(4, shuffle_seed=5), splits.train.batches(4, shuffle_seed=6))


@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_what_a_worker_needs_can_be_sent_to_one_that_is_not_a_fork(kind, request, monkeypatch):
    train = load_photos(request.getfixturevalue(kind), validation=0).train
    expected = list(train.batches(4, shuffle_seed=5))
    loader = image_files.DataLoader
    monkeypatch.setattr(image_files, "DataLoader", lambda work, **kw: loader(pickle.loads(pickle.dumps(work)), **kw))
    assert same(train.batches(4, shuffle_seed=5), expected)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_photos_are_divided_among_processes_and_resumed_as_images_are(kind, world, request):
    train = load_photos(request.getfixturevalue(kind), validation=1).train
    whole = list(train.batches(6, shuffle_seed=2))
    split = [list(train.batches(6, shuffle_seed=2, first=2, part=(rank, world))) for rank in range(world)]
    together = [joined(batches) for batches in zip(*split, strict=True)]
    assert len(together) == len(whole) - 2 == 3
    for (inputs, labels), (images, numbers) in zip(together, whole[2:], strict=True):
        assert torch.equal(inputs, images[: len(inputs)])
        assert torch.equal(labels, numbers[: len(labels)])
        assert len(images) - len(inputs) < world
    every = joined([part for rank in range(world) for part in train.batches(7, part=(rank, world))])
    assert len(every[1]) == len(train)


def test_photos_hold_out_one_in_fifty_by_default(folders):
    train, validation, test = load_photos(folders)
    assert [len(part) for part in (train, validation, test)] == [29, 1, 10]
    assert not set(train.indices.tolist()) & set(validation.indices.tolist())
    train, validation, test = load_photos(folders, validation=0, samples=4)
    assert validation is test
    assert train.source.labels[train.indices].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_a_photo_that_cannot_be_read_is_named_in_one_line(kind, workers, request, tmp_path):
    folder = shutil.copytree(request.getfixturevalue(kind), tmp_path / "copy")
    if kind == "folders":
        truncate(folder / "val" / "bee" / "007.JPEG", 0.7)
        name = "007.JPEG"
    else:
        path = folder / "validation-00001-of-00002.parquet"
        rows = pq.read_table(path).to_pylist()
        rows[4]["image"]["bytes"] = rows[4]["image"]["bytes"][:300]
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
        name = r"validation-00001-of-00002.parquet \(row 4\)"
    test = load_photos(folder, workers=workers).test
    with pytest.raises(CorruptFileError, match=f"{name} is not a readable image") as caught:
        list(test.batches(4))
    assert "\n" not in str(caught.value)


def test_a_photo_that_no_longer_exists_is_named(folders, tmp_path):
    folder = shutil.copytree(folders, tmp_path / "copy")
    test = load_photos(folder, workers=2).test
    (folder / "val" / "ape" / "002.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"002.JPEG"):
        list(test.batches(4))


def test_a_loop_that_stops_early_leaves_no_workers_behind(folders):
    batches = load_photos(folders, workers=2, validation=0).train.batches(2, shuffle_seed=0)
    next(batches)
    batches.close()
    assert torch.multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "holds 2 classes, the network has 1: give --num-classes 2"),
        ({"classes": 1000}, "holds 2 classes, the network has 1000: give --num-classes 2"),
        ({"size": 0}, r"invalid size: 0 \(must be >= 1\)"),
        ({"resize": 20}, r"invalid resize: 20 \(must be >= 24\)"),
        ({"workers": -1}, r"invalid workers: -1 \(must be >= 0\)"),
        ({"validation": 30}, r"invalid validation: 30 \(must be in 0..29\)"),
    ],
)
def test_a_bad_argument_of_photos_is_named(folders, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_photos(folders, **arguments)


def test_folders_without_photos_are_named(folders, parquet, tmp_path, monkeypatch):
    monkeypatch.delenv("DIRPRUNE_DATA", raising=False)
    copy = shutil.copytree(folders, tmp_path / "copy")
    shutil.rmtree(copy / "val")
    shards = shutil.copytree(parquet, tmp_path / "shards")
    for path in shards.glob("validation-*"):
        path.unlink()
    for folder, message in (
        (None, "name their folder with --data"),
        (tmp_path / "none", "none is not a folder"),
        (tmp_path, "holds neither a folder train nor train-"),
        (copy, "has training images but no folder val"),
        (shards, r"has training images but no validation-\*.parquet"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load_photos(folder)
    monkeypatch.setenv("DIRPRUNE_DATA", str(folders))
    assert len(load_photos(None).test) == 10


@pytest.mark.parametrize(("package", "named"), [("PIL", "Pillow"), ("pyarrow", "pyarrow")])
def test_a_missing_package_is_named_with_its_extra(package, named, parquet, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"need {named}: pip install 'directional-pruning\[images\]'"):
        list(load_photos(parquet).test.batches(4))
