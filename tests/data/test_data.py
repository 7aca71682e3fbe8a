"""Batches that are functions of the seed, and the forms in which CIFAR and photographs come."""

import hashlib
import io
import os
import pickle
import random
import shutil
import sys
import tarfile
import tracemalloc
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from directional_pruning.data import Images, Windows, cifar10, cifar100, photos
from directional_pruning.data.decode import crop_box, decode
from directional_pruning.data.download import cache_folder, fetch
from directional_pruning.data.folder import Folder
from directional_pruning.data.images import window_view
from directional_pruning.data.parquet import Shards
from directional_pruning.data.splits import batch_slices, hold_out, stratified
from directional_pruning.files import CorruptFileError

pytestmark = [
    # Python 3.12 and later say so of every worker, because torch has threads; torch's loader is made for it.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PIXELS = torch.randint(256, (37, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CONSTANTS = [torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD)]


def augmented(images=PIXELS, **options):
    return Images(images, torch.arange(len(images)), MEAN, STD, **({"padding": 2, "flip": True} | options))


def pixels_of(normalised):
    """The bytes behind normalised images."""
    return (normalised * CONSTANTS[1] + CONSTANTS[0]).mul(255).round().to(torch.uint8)


def joined(batches):
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(joined(left), joined(right), strict=True))


# Images in memory


def test_without_a_seed_images_come_normalised_and_in_stored_order():
    images, labels = joined(augmented().batches(8))
    torch.testing.assert_close(images, (PIXELS / 255 - CONSTANTS[0]) / CONSTANTS[1])
    assert images.dtype == torch.float32
    assert labels.tolist() == list(range(37))


def test_bytes_without_constants_are_scaled_and_floats_are_left_alone():
    labels = torch.zeros(37, dtype=torch.int64)
    torch.testing.assert_close(next(Images(PIXELS, labels).batches(37))[0], PIXELS / 255)
    floats = torch.randn(5, 1, 2, 2)
    stored = floats.clone()
    batch, _ = next(Images(floats, labels[:5]).batches(5))
    assert torch.equal(batch, floats)
    batch.zero_()
    assert torch.equal(floats, stored)


def found_in(source, image, padding):
    """Where in its padded source, mirrored or not, an image is: (row, column, mirrored)."""
    padded = torch.nn.functional.pad(source, (padding,) * 4)
    height, width = image.shape[1:]
    return [
        (y, x, mirrored)
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
        for mirrored in (False, True)
        for window in [padded[:, y : y + height, x : x + width]]
        if torch.equal(window.flip(2) if mirrored else window, image)
    ]


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (2, False), (0, True), (0, False)])
def test_every_image_is_a_crop_of_its_padded_source_perhaps_mirrored(padding, flip):
    seen = set()
    for seed in range(4):
        for images, labels in augmented(padding=padding, flip=flip).batches(8, shuffle_seed=seed):
            for image, label in zip(pixels_of(images), labels.tolist(), strict=True):
                places = found_in(PIXELS[label], image, padding)
                assert len(places) == 1
                seen.add(places[0])
    sides = 2 * padding + 1
    assert {mirrored for _, _, mirrored in seen} == ({False, True} if flip else {False})
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(sides))


def test_crops_and_mirrors_are_uniform():
    """Chi-square of 25 offsets times 2 over 20,000 images, against the 0.999 quantile with 49 degrees of freedom."""
    position = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).expand(20_000, 1, 5, 5)
    data = Images(position, torch.zeros(20_000, dtype=torch.int64), padding=2, flip=True)
    images, _ = joined(data.batches(500, shuffle_seed=0))
    # The centre of the window names the offset: it is never outside of the image. Its right neighbour, the direction.
    images = (images * 255).round().int()
    centre, right, left = images[:, 0, 2, 2], images[:, 0, 2, 3], images[:, 0, 2, 1]
    mirrored = (left == centre + 1) | ((right == 0) & (left == 0)) | (right == centre - 1)
    counts = torch.bincount((centre - 1) * 2 + mirrored, minlength=50)
    assert int(counts.min()) > 0
    expected = 20_000 / 50
    assert float(((counts - expected) ** 2 / expected).sum()) < 85.4


def test_a_float_image_is_padded_with_black_before_it_is_normalised():
    ones = Images(torch.ones(64, 3, 4, 4), torch.arange(64), MEAN, STD, padding=1)
    images, _ = joined(ones.batches(64, shuffle_seed=0))
    black, white = ((value - CONSTANTS[0]) / CONSTANTS[1] for value in (0, 1))
    for channel in range(3):
        values = images[:, channel].unique()
        torch.testing.assert_close(values, torch.stack([black[channel, 0, 0], white[channel, 0, 0]]))


def test_an_epoch_is_a_function_of_its_seed_and_the_batch_size_only_cuts_it():
    data = augmented()
    assert same(data.batches(8, shuffle_seed=1), data.batches(8, shuffle_seed=1))
    assert same(data.batches(8, shuffle_seed=1), data.batches(5, shuffle_seed=1))
    assert not same(data.batches(8, shuffle_seed=1), data.batches(8, shuffle_seed=2))
    before = torch.get_rng_state()
    list(data.batches(8, shuffle_seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_both_ways_to_take_windows_agree():
    """On the CPU rows are copied, on other devices a view is indexed."""
    canvas = PIXELS.view(1, *PIXELS.shape)
    windows = window_view(canvas, 4, 3)
    starts = torch.tensor([0, 7 + 3 * 30, len(windows) - 1])
    assert torch.equal(windows[starts], windows.index_select(0, starts))
    assert torch.equal(windows[starts[1]], PIXELS.as_strided((3, 4, 3), (30, 5, 1), 97))
    assert torch.equal(windows[starts[2]], PIXELS[-1, :, 2:, 2:])


def test_large_images_are_augmented_a_few_at_a_time_with_the_same_result():
    """An image has 786,432 values and at most 2 ** 21 are augmented at once: one batch of 4, or two of 1."""
    data = augmented(torch.randint(256, (6, 3, 512, 512), dtype=torch.uint8))
    fours, ones = (list(data.batches(size, shuffle_seed=1)) for size in (4, 1))
    assert same(fours, ones)
    assert [len(labels) for _, labels in fours] == [4, 2]
    assert [len(labels) for _, labels in ones] == [1] * 6


WINDOWS = Windows(torch.arange(90), window=7, samples=37)


@pytest.mark.parametrize(
    "data", [augmented(), augmented(padding=0, flip=False), WINDOWS], ids=["crops", "plain", "text"]
)
@pytest.mark.parametrize("seed", [None, 3])
@given(batch=st.integers(1, 6), first=st.integers(0, 9), world=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_shares_put_together_are_the_batch_and_first_leaves_out_batches(data, seed, batch, first, world):
    batch_size = batch * world if seed is not None else batch
    whole = list(data.batches(batch_size, shuffle_seed=seed))[first:]
    split = [list(data.batches(batch_size, shuffle_seed=seed, first=first, part=(r, world))) for r in range(world)]
    if seed is not None:
        assert len({len(ours) for ours in split}) == 1
        together = [joined(batches) for batches in zip(*split, strict=True)]
        for number, (inputs, labels) in enumerate(together):
            size = len(whole[number][0]) // world * world
            assert torch.equal(inputs, whole[number][0][:size])
            assert torch.equal(labels, whole[number][1][:size])
            assert len({len(ours[number][0]) for ours in split}) == 1
        assert len(together) == sum(len(inputs) >= world for inputs, _ in whole)
    elif whole:
        every = joined([part for ours in split for part in ours])[1]
        assert sorted(every.flatten().tolist()) == sorted(joined(whole)[1].flatten().tolist())
    assert all(len(inputs) for ours in split for inputs, _ in ours)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"invalid batch_size: 0 \(must be >= 1\)"),
        ({"batch_size": 4, "first": -1}, r"invalid first: -1 \(must be >= 0\)"),
        ({"batch_size": 4, "part": (2, 2)}, r"invalid part: \(2, 2\)"),
        (
            {"batch_size": 6, "part": (0, 4), "shuffle_seed": 0},
            r"invalid batch_size: 6 \(must be a multiple of the 4 processes\)",
        ),
    ],
)
def test_a_bad_argument_of_batches_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        list(augmented().batches(**arguments))


def test_a_batch_smaller_than_the_processes_is_evaluated_once_and_trained_on_never():
    assert [list(batch_slices(2, 4, part=(rank, 4))) for rank in range(4)] == [[], [(0, 1)], [], [(1, 2)]]
    assert [list(batch_slices(2, 4, part=(rank, 4), equal=True)) for rank in range(4)] == [[]] * 4
    with pytest.raises(StopIteration):
        next(augmented(PIXELS[:2]).batches(4, shuffle_seed=0, part=(0, 4)))


# Splits


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), share=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_stratified_share_takes_each_class_in_proportion(sizes, share, seed):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    count = round(share * len(labels))
    mask = stratified(labels, count)
    assert int(mask.sum()) == count
    taken = labels[mask].bincount(minlength=len(sizes))
    assert ((taken - torch.tensor(sizes) * count / len(labels)).abs() < 1).all()
    assert torch.equal(mask, stratified(labels, count))


def test_what_is_held_out_is_not_trained_on_and_does_not_depend_on_the_samples():
    labels = torch.arange(100) % 10
    train, held = hold_out(labels, 20, 0)
    assert sorted(torch.cat([train, held]).tolist()) == list(range(100))
    fewer, still_held = hold_out(labels, 20, 30)
    assert torch.equal(still_held, held)
    assert set(fewer.tolist()) < set(train.tolist())
    assert labels[fewer].bincount().tolist() == [3] * 10
    assert labels[held].bincount().tolist() == [2] * 10


# CIFAR


def small_cifar(classes, train=30, test=20):
    generator = torch.Generator().manual_seed(classes)
    images = torch.randint(256, (train + test, 3, 32, 32), dtype=torch.uint8, generator=generator)
    # By class, as an image folder lists them; all classes occur in the training images of CIFAR-10.
    labels = [torch.arange(n) * classes // n for n in (train, test)]
    return images[:train], labels[0], images[train:], labels[1]


def png(image):
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def write_pickles(folder, classes, protocol=2, **changed):
    folder.mkdir(parents=True)
    images, labels, test_images, test_labels = small_cifar(classes)
    key = b"labels" if classes == 10 else b"fine_labels"
    names = {"data_batch_1": slice(10), "data_batch_2": slice(10, 30)} if classes == 10 else {"train": slice(30)}
    batches = {name: (images[part], labels[part]) for name, part in names.items()}
    batches["test_batch" if classes == 10 else "test"] = test_images, test_labels
    for name, (pixels, numbers) in batches.items():
        data = {b"data": pixels.flatten(1).numpy(), key: numbers.tolist(), b"batch_label": b"a batch"} | changed
        (folder / name).write_bytes(pickle.dumps(data, protocol=protocol))
    (folder / "batches.meta").write_bytes(b"not read")
    return folder


def write_binaries(folder, classes):
    folder.mkdir(parents=True)
    images, labels, test_images, test_labels = small_cifar(classes)

    def records(pixels, numbers):
        heads = [numbers.to(torch.uint8)[:, None]]
        coarse = [] if classes == 10 else [torch.full_like(heads[0], 7)]
        return torch.cat([*coarse, *heads, pixels.flatten(1)], 1).numpy().tobytes()

    if classes == 10:
        (folder / "data_batch_1.bin").write_bytes(records(images[:10], labels[:10]))
        (folder / "data_batch_2.bin").write_bytes(records(images[10:], labels[10:]))
        (folder / "test_batch.bin").write_bytes(records(test_images, test_labels))
    else:
        (folder / "train.bin").write_bytes(records(images, labels))
        (folder / "test.bin").write_bytes(records(test_images, test_labels))
    return folder


def write_parquet(folder, classes, image_column="img", label_column="label", struct=True, row_group_size=7):
    folder.mkdir(parents=True, exist_ok=True)
    images, labels, test_images, test_labels = small_cifar(classes)
    for split, pixels, numbers in (("train", images, labels), ("test", test_images, test_labels)):
        half = len(pixels) // 2
        for shard, part in enumerate((slice(half), slice(half, None))):
            files = [png(image) for image in pixels[part]]
            column = [{"bytes": file, "path": "a.png"} for file in files] if struct else files
            columns = {image_column: column, label_column: numbers[part].tolist()}
            if label_column == "fine_label":
                columns["coarse_label"] = [0] * len(files)
            path = folder / f"{split}-{shard:05}-of-00002.parquet"
            pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return folder


def write_folders(folder, classes):
    images, labels, test_images, test_labels = small_cifar(classes)
    for split, pixels, numbers in (("train", images, labels), ("test", test_images, test_labels)):
        for number, (image, label) in enumerate(zip(pixels, numbers.tolist(), strict=True)):
            path = folder / split / f"class{label:03}" / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image))
    return folder


def write_archive(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{content.name}.tar.gz", "w:gz") as archive:
        archive.add(content, content.name)
    return folder / f"{content.name}.tar.gz"


def archived(tmp_path, write, inside, name, classes):
    made = write_archive(tmp_path / "archive", write(tmp_path / inside, classes))
    return made.rename(made.with_name(name))


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


def test_cifar_holds_out_by_class_and_keeps_the_samples_asked_for(tmp_path):
    images = small_cifar(10)[0]
    folder = write_binaries(tmp_path / "cifar", 10)
    train, validation, test = cifar10(folder=folder, validation=10, samples=10, mean=MEAN, std=STD)
    assert [len(part) for part in (train, validation, test)] == [10, 10, 20]
    assert train.labels.tolist() == validation.labels.tolist() == list(range(10))
    kept = {image.numpy().tobytes() for image in images}
    first, second = ({image.numpy().tobytes() for image in part.images} for part in (train, validation))
    assert first < kept
    assert second < kept
    assert not first & second
    for part in (train, validation, test):
        assert (part.mean, part.std) == (MEAN, STD)
    assert (validation.padding, validation.flip) == (0, False)
    assert torch.equal(validation.images, cifar10(folder=folder, validation=10).validation.images)


def test_the_folder_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DIRPRUNE_DATA", str(write_pickles(tmp_path / "cifar-10-batches-py", 10).parent))
    assert torch.equal(cifar10(validation=0).train.images, small_cifar(10)[0])


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_a_command_runs_nothing(protocol, tmp_path):
    mark = tmp_path / "ran"
    folder = write_pickles(tmp_path / "cifar", 10, protocol, more=Malicious(f"touch {mark}"))
    with pytest.raises(
        CorruptFileError, match=r"data_batch_1 is not a readable batch of CIFAR-10: it names \w+.system"
    ):
        cifar10(folder=folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "numpy.load", "numpy.core.multiarray.fromstring", "builtins.getattr"]
)
def test_nothing_that_a_pickle_names_is_looked_up(name, tmp_path):
    folder = write_pickles(tmp_path / "cifar", 10)
    module, function = name.rsplit(".", 1)
    (folder / "data_batch_1").write_bytes(f"c{module}\n{function}\n(S'1'\ntR.".encode())
    with pytest.raises(CorruptFileError, match=f"it names {name}"):
        cifar10(folder=folder)


def truncated(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def broken_pickle(p):
    truncated(write_pickles(p / "c", 10) / "data_batch_2")
    return p / "c"


def broken_binary(p):
    truncated(write_binaries(p / "c", 10) / "test_batch.bin", 0.52)
    return p / "c"


def broken_archive(p):
    path = archived(p, write_pickles, "c", "cifar.tar.gz", 10)
    truncated(path)
    return path


def other_archive(p):
    (p / "in").mkdir()
    (p / "in" / "readme").write_text("nothing")
    return write_archive(p, p / "in")


def broken_parquet(p):
    truncated(write_parquet(p, 10) / "train-00001-of-00002.parquet")
    return p


def parquet_without_test(p):
    for path in write_parquet(p, 10).glob("test-*"):
        path.unlink()
    return p


def broken_png(p):
    truncated(write_folders(p, 10) / "train" / "class000" / "0001.png")
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
def test_what_is_wrong_with_cifar_is_said_in_one_line(name, tmp_path):
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


# The download, from a file instead of the network


@pytest.fixture
def archive(tmp_path):
    return archived(tmp_path, write_pickles, "cifar-10-batches-py", "cifar-10-python.tar.gz", 10)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder, empty, and no other folder of data."""
    monkeypatch.delenv("DIRPRUNE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache_folder().mkdir(parents=True)
    assert cache_folder().is_relative_to(tmp_path)
    return cache_folder()


def test_a_file_is_downloaded_once_and_with_its_checksum(archive, tmp_path):
    content, url, path = archive.read_bytes(), archive.as_uri(), tmp_path / "new folder" / "copy.tar.gz"
    md5 = hashlib.md5(content).hexdigest()
    assert fetch(url, path, md5) == path
    assert path.read_bytes() == content
    archive.unlink()
    assert fetch(url, path, md5) == path
    assert list(path.parent.iterdir()) == [path]


def test_cifar_is_read_from_the_cache_folder(archive, cache):
    archive.rename(cache / archive.name)
    assert torch.equal(cifar10(validation=0).train.images, small_cifar(10)[0])


def test_cifar_with_another_checksum_leaves_nothing_behind(archive, cache, monkeypatch):
    urls, open_url = [], urllib.request.urlopen

    def open_archive(url, **options):
        urls.append(url)
        return open_url(archive.as_uri(), **options)

    monkeypatch.setattr(urllib.request, "urlopen", open_archive)
    with pytest.raises(
        CorruptFileError, match=r"is not the data set: its MD5 is .*, not c58f30108f718f92721af3b95e74349a"
    ):
        cifar10()
    assert urls == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert list(cache.iterdir()) == []


def test_without_a_network_the_user_learns_what_to_do(cache, monkeypatch):
    def fails(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fails)
    message = r"cifar-10-python.tar.gz cannot be downloaded \(no route to host\): name a folder that has it with --data"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        cifar10()
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


# Photographs

SHAPES = [(40, 30), (30, 40), (64, 64), (200, 50), (300, 260)]


def photograph(number):
    width, height = SHAPES[number % len(SHAPES)]
    generator = torch.Generator().manual_seed(number)
    coarse = torch.randint(256, (4, 5, 3), dtype=torch.uint8, generator=generator).numpy()
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    if number % 7 == 3:
        image.convert("L").save(file, "JPEG")
    elif number % 7 == 5:
        image.convert("CMYK").save(file, "JPEG")
    else:
        image.save(file, "JPEG", quality=95)
    return file.getvalue()


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


def load(folder, **options):
    return photos("cpu", folder, **({"classes": 2, "size": 24, "resize": 28, "workers": 0} | options))


def test_photos_of_folders_and_parquet_are_the_same(folders, parquet):
    left, right = load(folders, validation=6), load(parquet, validation=6)
    assert [len(part) for part in left] == [len(part) for part in right] == [24, 6, 10]
    for ours, theirs in zip(left, right, strict=True):
        assert same(ours.batches(4), theirs.batches(4))
        images, labels = joined(ours.batches(4))
        assert images.shape == (len(ours), 3, 24, 24)
        assert labels.bincount().tolist() == [len(ours) // 2] * 2
    # In one pool the order of the row groups matters not, so the epoch holds the same images with the same boxes.
    pairs = [
        sorted((int(y), image.sum().item()) for x, y in s.train.batches(4, shuffle_seed=1) for image, y in zip(x, y))
        for s in (left, right)
    ]
    assert pairs[0] == pairs[1]


def test_a_folder_keeps_little_more_than_the_names_of_its_files(tmp_path):
    paths = [tmp_path / "cat" / "a" / "Käse 1.png", *(tmp_path / "cat" / f"{i:04}.png" for i in range(1000))]
    paths = [*sorted(paths), tmp_path / "dog" / "x.jpeg"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Folder(tmp_path, ["cat", "dog"])  # what is imported or cached once does not count
    tracemalloc.start()
    found = Folder(tmp_path, ["cat", "dog"])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 40 * len(paths)
    assert [found.encoded(i) for i in range(len(found))] == paths
    assert found.name(len(found) - 1) == str(paths[-1])


@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_workers_change_nothing_and_neither_does_the_global_generator(kind, request):
    folder = request.getfixturevalue(kind)
    splits, helped = load(folder, validation=0), load(folder, validation=0, workers=2)
    before = torch.get_rng_state()
    for seed in (None, 5):
        assert same(splits.train.batches(4, shuffle_seed=seed), helped.train.batches(4, shuffle_seed=seed))
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(splits.train.batches(4, shuffle_seed=5), splits.train.batches(4, shuffle_seed=6))


@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_what_a_worker_needs_can_be_sent_to_one_that_is_not_a_fork(kind, request, monkeypatch):
    train = load(request.getfixturevalue(kind), validation=0).train
    expected = list(train.batches(4, shuffle_seed=5))
    module = sys.modules["directional_pruning.data.image_files"]
    loader = module.DataLoader
    monkeypatch.setattr(module, "DataLoader", lambda work, **kw: loader(pickle.loads(pickle.dumps(work)), **kw))
    assert same(train.batches(4, shuffle_seed=5), expected)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_photos_are_shared_and_resumed_as_images_are(kind, world, request):
    train = load(request.getfixturevalue(kind), validation=1).train
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


@pytest.fixture
def pools_of_eight_rows(monkeypatch):
    """The test data have 30 rows, which would all be in one pool of the real size."""
    monkeypatch.setattr("directional_pruning.data.image_files.POOL_ROWS", 8)


@pytest.fixture
def reads(monkeypatch):
    """The row groups that were read, by their number in their file."""
    numbers, read = [], pq.ParquetFile.read_row_group

    def read_and_count(file, number, **options):
        numbers.append(number)
        return read(file, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_and_count)
    return numbers


@pytest.mark.usefixtures("pools_of_eight_rows")
def test_every_photo_is_in_an_epoch_once_and_pools_of_row_groups_stay_together(parquet):
    train = load(parquet, validation=0).train
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
    train = load(parquet, validation=10, samples=samples).train
    train = replace(train, source=Shards(train.source.files, cache_rows=8))
    list(train.batches(4, shuffle_seed=1))
    assert len(reads) == len(train.source.groups[train.indices].unique())


def test_an_evaluated_photo_is_the_centre_of_the_resized_one():
    """Against Pillow's resize of the whole image to a short side of 256 and a crop of its centre."""
    width, height = 768, 512
    waves = torch.stack(
        [torch.outer((torch.arange(height) / s).sin(), (torch.arange(width) / s).cos()) for s in (9, 14, 25)]
    )
    image = Image.fromarray(((waves + 1) * 127).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    file = io.BytesIO()
    image.save(file, "PNG")
    resized = image.resize((384, 256), Image.Resampling.BILINEAR)
    crop = torch.tensor(np.array(resized.crop((80, 16, 304, 240)))).permute(2, 0, 1)
    assert int((decode(file.getvalue(), "it", 224, resize=256).int() - crop.int()).abs().max()) <= 1


def test_a_large_jpeg_is_decoded_at_a_smaller_scale_with_nearly_the_same_result(monkeypatch):
    coarse = torch.randint(256, (12, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    file = io.BytesIO()
    Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    from PIL import JpegImagePlugin

    drafts = []
    draft = JpegImagePlugin.JpegImageFile.draft
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile, "draft", lambda self, *a: drafts.append(draft(self, *a)) or drafts[-1]
    )
    quick = decode(file.getvalue(), "it", 56, resize=64)
    assert drafts[-1] is not None
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *_: None)
    slow = decode(file.getvalue(), "it", 56, resize=64)
    difference = (quick.int() - slow.int()).abs()
    assert int(difference.max()) <= 6
    assert float(difference.float().mean()) < 1


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), seed=st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_a_random_box_is_inside_and_of_the_area_and_ratio_it_should_have(width, height, seed):
    left, upper, right, lower = crop_box(width, height, 224, 256, random.Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    if min(width, height) >= 100 and max(width, height) <= 4 / 3 * min(width, height):
        assert 0.07 < (right - left) * (lower - upper) / (width * height) <= 1
        assert 0.7 < (right - left) / (lower - upper) < 1.4


def test_random_boxes_cover_the_image_and_half_are_mirrored():
    boxes = [crop_box(500, 375, 224, 256, random.Random(f"0 {i}")) for i in range(2000)]
    shares_of_area = torch.tensor([(r - x) * (b - y) / (500 * 375) for x, y, r, b in boxes])
    assert 0.07 < float(shares_of_area.min()) < 0.1
    assert float(shares_of_area.max()) > 0.9
    gradient = torch.arange(64, dtype=torch.uint8).mul(4).expand(3, 64, 64)
    file = png(gradient)
    decoded = [decode(file, "it", 8, resize=9, rng=random.Random(f"0 {i}")).int() for i in range(400)]
    mirrored = sum(int(image[0, 0, 0] > image[0, 0, -1]) for image in decoded)
    assert 160 < mirrored < 240  # five standard deviations


def test_palettes_and_transparency_become_colours():
    for image in (Image.new("RGBA", (9, 9), (250, 10, 20, 255)), Image.new("P", (9, 9), 0)):
        file = io.BytesIO()
        image.save(file, "PNG", **({"transparency": b"\x00"} if image.mode == "P" else {}))
        assert decode(file.getvalue(), "it", 9).shape == (3, 9, 9)


def test_photos_hold_out_one_in_fifty_unless_told_otherwise(folders):
    train, validation, test = load(folders)
    assert [len(part) for part in (train, validation, test)] == [29, 1, 10]
    assert not set(train.indices.tolist()) & set(validation.indices.tolist())
    train, validation, test = load(folders, validation=0, samples=4)
    assert validation is test
    assert train.source.labels[train.indices].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_a_photo_that_cannot_be_read_is_named_in_one_line(kind, workers, request, tmp_path):
    folder = shutil.copytree(request.getfixturevalue(kind), tmp_path / "copy")
    if kind == "folders":
        truncated(folder / "val" / "bee" / "007.JPEG", 0.7)
        name = "007.JPEG"
    else:
        path = folder / "validation-00001-of-00002.parquet"
        rows = pq.read_table(path).to_pylist()
        rows[4]["image"]["bytes"] = rows[4]["image"]["bytes"][:300]
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
        name = r"validation-00001-of-00002.parquet \(row 4\)"
    test = load(folder, workers=workers).test
    with pytest.raises(CorruptFileError, match=f"{name} is not a readable image") as caught:
        list(test.batches(4))
    assert "\n" not in str(caught.value)


def test_a_photo_that_has_gone_is_named(folders, tmp_path):
    folder = shutil.copytree(folders, tmp_path / "copy")
    test = load(folder, workers=2).test
    (folder / "val" / "ape" / "002.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"002.JPEG"):
        list(test.batches(4))


def test_a_loop_that_stops_early_leaves_no_workers_behind(folders):
    batches = load(folders, workers=2, validation=0).train.batches(2, shuffle_seed=0)
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
        load(folders, **arguments)


def test_parquet_may_hold_fewer_classes_but_not_more(parquet):
    assert len(load(parquet, classes=1000).test) == 10
    with pytest.raises(ValueError, match="holds 2 classes, the network has 1: give --num-classes 2"):
        load(parquet, classes=1)


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
            load(folder)
    monkeypatch.setenv("DIRPRUNE_DATA", str(folders))
    assert len(load(None).test) == 10


@pytest.mark.parametrize(("package", "named"), [("PIL", "Pillow"), ("pyarrow", "pyarrow")])
def test_a_missing_package_is_named_with_its_extra(package, named, parquet, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"need {named}: pip install 'directional-pruning\[images\]'"):
        list(load(parquet).test.batches(4))
