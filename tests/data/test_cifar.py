"""CIFAR in every format, and errors of one line for files that are wrong."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_samples import (
    MEAN,
    STD,
    archived,
    png,
    small_cifar,
    truncate,
    write_archive,
    write_binaries,
    write_folders,
    write_parquet,
    write_pickles,
)
from PIL import Image

from directional_pruning.data import cifar10, cifar100
from directional_pruning.files import CorruptFileError

SOURCES = {
    10: {
        "extracted": lambda p: write_pickles(p / "cifar-10-batches-py", 10),
        "parent": lambda p: write_pickles(p / "cifar-10-batches-py", 10).parent,
        "protocol 0": lambda p: write_pickles(p / "pickles", 10, protocol=0),
        "protocol 5": lambda p: write_pickles(p / "pickles", 10, protocol=5),
        "archive": lambda p: archived(p, write_pickles, "cifar-10-batches-py", "any.tar.gz", 10),
        "folder of archive": lambda p: (
            archived(p, write_pickles, "cifar-10-batches-py", "cifar-10-python.tar.gz", 10).parent
        ),
        "binary": lambda p: write_binaries(p / "cifar-10-batches-bin", 10).parent,
        "binary archive": lambda p: (
            archived(p, write_binaries, "cifar-10-batches-bin", "cifar-10-binary.tar.gz", 10).parent
        ),
        "parquet": lambda p: write_parquet(p, 10),
        "parquet of bytes": lambda p: write_parquet(p / "data", 10, "image", struct=False).parent,
        "folders": lambda p: write_folders(p, 10),
    },
    100: {
        "extracted": lambda p: write_pickles(p / "cifar-100-python", 100),
        "parent": lambda p: write_pickles(p / "cifar-100-python", 100).parent,
        "archive": lambda p: archived(p, write_pickles, "cifar-100-python", "cifar-100-python.tar.gz", 100),
        "binary": lambda p: write_binaries(p / "cifar-100-binary", 100).parent,
        "parquet": lambda p: write_parquet(p, 100, "img", "fine_label"),
    },
}
CASES = [(classes, name) for classes, sources in SOURCES.items() for name in sources]


@pytest.mark.parametrize(("classes", "name"), CASES, ids=[f"{c} {n}" for c, n in CASES])
def test_all_sources_of_cifar_give_the_same_tensors(classes, name, tmp_path):
    images, labels, test_images, test_labels = small_cifar(classes)
    load = cifar10 if classes == 10 else cifar100
    train, validation, test = load(folder=SOURCES[classes][name](tmp_path), validation=0)
    assert train.images.dtype == torch.uint8
    assert torch.equal(train.images, images)
    assert torch.equal(train.labels, labels)
    assert torch.equal(test.images, test_images)
    assert torch.equal(test.labels, test_labels)
    assert validation is test
    assert (train.padding, train.flip, test.padding, test.flip) == (4, True, 0, False)
    assert next(train.batches(4, shuffle_seed=0))[0].shape == (4, 3, 32, 32)


def test_cifar_is_held_out_by_class_and_has_the_requested_samples(tmp_path):
    images = small_cifar(10)[0]
    folder = write_binaries(tmp_path / "cifar", 10)
    train, validation, test = cifar10(folder=folder, validation=10, samples=10, mean=MEAN, std=STD)
    assert [len(part) for part in (train, validation, test)] == [10, 10, 20]
    assert train.labels.tolist() == validation.labels.tolist() == list(range(10))
    stored = {image.numpy().tobytes() for image in images}
    first, second = ({image.numpy().tobytes() for image in part.images} for part in (train, validation))
    assert first < stored
    assert second < stored
    assert not first & second
    for part in (train, validation, test):
        assert (part.mean, part.std) == (MEAN, STD)
    assert (validation.padding, validation.flip) == (0, False)
    assert torch.equal(validation.images, cifar10(folder=folder, validation=10).validation.images)


def test_the_folder_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DIRPRUNE_DATA", str(write_pickles(tmp_path / "cifar-10-batches-py", 10).parent))
    assert torch.equal(cifar10(validation=0).train.images, small_cifar(10)[0])


def broken_pickle(p):
    truncate(write_pickles(p / "c", 10) / "data_batch_2")
    return p / "c"


def broken_binary(p):
    truncate(write_binaries(p / "c", 10) / "test_batch.bin", 0.52)
    return p / "c"


def broken_archive(p):
    path = archived(p, write_pickles, "c", "cifar.tar.gz", 10)
    truncate(path)
    return path


def other_archive(p):
    (p / "in").mkdir()
    (p / "in" / "readme").write_text("nothing")
    return write_archive(p, p / "in")


def broken_parquet(p):
    truncate(write_parquet(p, 10) / "train-00001-of-00002.parquet")
    return p


def parquet_without_test(p):
    for path in write_parquet(p, 10).glob("test-*"):
        path.unlink()
    return p


def broken_png(p):
    truncate(write_folders(p, 10) / "train" / "class000" / "0001.png")
    return p


def large_png(p):
    Image.new("RGB", (33, 32)).save(write_folders(p, 10) / "test" / "class009" / "9999.png")
    return p


def unknown_class(p):
    (write_folders(p, 10) / "test" / "class009").rename(p / "test" / "cat")
    return p


def few_classes(p):
    shutil.rmtree(write_folders(p, 10) / "train" / "class004")
    return p


def empty_class(p):
    shutil.rmtree(write_folders(p, 10) / "train" / "class004")
    (p / "train" / "class004").mkdir()
    return p


def no_row(p):
    columns = {"img": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), p / f"{split}-0.parquet")
    return p


def null_image(p):
    for split in ("train", "test"):
        pq.write_table(
            pa.table({"img": [png(torch.zeros(3, 32, 32, dtype=torch.uint8)), None], "label": [0, 1]}),
            p / f"{split}-0.parquet",
        )
    return p


BROKEN = {
    "missing": (lambda p: p / "nowhere", FileNotFoundError, "nowhere does not exist"),
    "empty": (lambda p: p, FileNotFoundError, "holds no CIFAR-10: neither cifar-10-batches-py"),
    "pickle": (broken_pickle, CorruptFileError, "data_batch_2 is not a readable batch of CIFAR-10"),
    "binary": (broken_binary, CorruptFileError, "test_batch.bin is truncated: "),
    "archive": (broken_archive, CorruptFileError, "cifar.tar.gz is not a readable archive"),
    "other archive": (other_archive, CorruptFileError, "in.tar.gz is not an archive of CIFAR-10"),
    "few labels": (
        lambda p: write_pickles(p / "c", 10, labels=[1, 2]),
        CorruptFileError,
        "data_batch_1 is not a readable batch of CIFAR-10: not as many labels",
    ),
    "wide pixels": (
        lambda p: write_pickles(p / "c", 10, data=np.zeros((10, 3072), dtype=np.int64)),
        CorruptFileError,
        "data_batch_1 is not a readable batch",
    ),
    "labels": (
        lambda p: write_parquet(p, 100, "img", "label"),
        ValueError,
        "has labels that are not in 0..9: it is not CIFAR-10",
    ),
    "parquet": (broken_parquet, CorruptFileError, "train-00001-of-00002.parquet is not a readable parquet file"),
    "columns": (
        lambda p: write_parquet(p, 10, "img", "kind"),
        CorruptFileError,
        "train-00000-of-00002.parquet has no column label or fine_label",
    ),
    "pictures": (
        lambda p: write_parquet(p, 10, "picture"),
        CorruptFileError,
        "train-00000-of-00002.parquet has no column img",
    ),
    "no test": (parquet_without_test, FileNotFoundError, r"has training images but no test-\*.parquet"),
    "no rows": (no_row, CorruptFileError, "train-0.parquet holds no images"),
    "no bytes": (null_image, CorruptFileError, r"train-0.parquet \(row 1\) is not a readable image"),
    "png": (broken_png, CorruptFileError, "0001.png is not a readable image"),
    "size": (large_png, CorruptFileError, "9999.png has 33 x 32 pixels, not 32 x 32"),
    "class": (unknown_class, ValueError, "cat is a class without training images"),
    "classes": (few_classes, ValueError, "train holds 9 classes, not 10"),
    "no images": (empty_class, FileNotFoundError, "class004 has no images"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_problem_with_cifar_is_named_in_one_line(name, tmp_path):
    make, error, message = BROKEN[name]
    with pytest.raises(error, match=message) as caught:
        cifar10(folder=make(tmp_path), validation=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 30}, r"invalid validation: 30 \(must be in 0..29\)"),
        ({"validation": -1}, r"invalid validation: -1 \(must be in 0..29\)"),
        ({"validation": 10, "samples": 21}, r"invalid samples: 21 \(must be in 0..20, where 0 is all\)"),
        ({"mean": (0.5,)}, r"invalid mean: \(0.5,\) \(must be three numbers\)"),
        ({"std": (0.5, 0.0, 1.0)}, r"invalid std: .* \(must be three positive numbers\)"),
    ],
)
def test_a_bad_argument_of_cifar_is_named(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        cifar10(folder=write_binaries(tmp_path / "c", 10), **arguments)
