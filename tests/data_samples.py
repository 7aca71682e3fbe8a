"""Small data sets, in memory and written to files in every format, and helpers that compare batches."""

import io
import pickle
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from directional_pruning.data import Images, photos

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PIXELS = torch.randint(256, (37, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def augmented(images=PIXELS, **options):
    return Images(images, torch.arange(len(images)), MEAN, STD, **({"padding": 2, "flip": True} | options))


def joined(batches):
    """All inputs and all targets of the batches."""
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(joined(left), joined(right), strict=True))


def small_cifar(classes, train=30, test=20):
    """Training images and labels, then test images and labels."""
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
    """The version for Python; ``changed`` replaces entries of the pickled dictionaries."""
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
        fine = numbers.to(torch.uint8)[:, None]
        coarse = [] if classes == 10 else [torch.full_like(fine, 7)]
        return torch.cat([*coarse, fine, pixels.flatten(1)], 1).numpy().tobytes()

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
    """What ``write`` puts into the folder ``inside``, packed as ``name``."""
    archive = write_archive(tmp_path / "archive", write(tmp_path / inside, classes))
    return archive.rename(archive.with_name(name))


def truncate(path, fraction=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])


SHAPES = [(40, 30), (30, 40), (64, 64), (200, 50), (300, 260)]


def photograph(number):
    """The bytes of a JPEG file; shapes and colour modes vary with the number."""
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


def load_photos(folder, **options):
    return photos("cpu", folder, **({"classes": 2, "size": 24, "resize": 28, "workers": 0} | options))
