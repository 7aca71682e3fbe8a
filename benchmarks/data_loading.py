"""Measure images loaded per second: small images from memory, photographs from files.

    python benchmarks/data_loading.py [--threads 1 2] [--images 50000] [--photos 512] [--workers 0 1 2] [--rounds 5]

Small images: 50,000 of CIFAR's size with random pixels, in batches of 128, cropped with 4 pixels of padding, mirrored
and normalised to float32. They are loaded by ``Images.batches``, and for comparison image by image, as with
torchvision's transforms: Pillow pads, crops and mirrors, a tensor is divided and normalised, and a DataLoader stacks
the images. The DataLoader runs without workers, and with as many workers as threads. Photographs: JPEG files of 500 x
375 and of 2000 x 1500 pixels, which this program makes. They are loaded by ``Photos.batches`` for training (random box,
224 pixels) and for evaluation, for each number of workers.

It prints images per second, the best and the median of the rounds, and the ratio of the medians.

If other programs use the same cores, several threads lose time because they spin while they wait for each other. With
``OMP_WAIT_POLICY=PASSIVE`` in the environment they sleep instead.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from directional_pruning.data import Images, photos
from directional_pruning.data.cifar import MEAN, STD


class ImageByImage(Dataset):
    """RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor and Normalize, applied to one image at a time."""

    def __init__(self, images, labels):
        self.images, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = ImageOps.expand(Image.fromarray(self.images[index]), border=4)
        x, y = random.randint(0, 8), random.randint(0, 8)
        image = image.crop((x, y, x + 32, y + 32))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)
        pixels = pixels.permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(self.mean).div_(self.std), self.labels[index]


def rates(epoch, rounds):
    """Images per second of each round; ``epoch(number)`` yields the batches of a round. The first round is warm-up."""
    per_second = []
    for number in range(rounds + 1):
        start, count = time.perf_counter(), 0
        for images, _ in epoch(number):
            count += len(images)
        per_second.append(count / (time.perf_counter() - start))
    return per_second[1:]


def show(name, per_second, baseline=None):
    ratio = f"{statistics.median(per_second) / statistics.median(baseline):9.1f} x" if baseline else ""
    print(f"{name:58}{max(per_second):12,.0f}{statistics.median(per_second):12,.0f}{ratio}", flush=True)


def write_photographs(folder, count, width, height):
    """Write JPEG files of smooth noise, which compress like photographs, in two classes."""
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        split = "val" if number % 4 == 0 else "train"
        coarse = torch.randint(256, (height // 8, width // 8, 3), generator=generator, dtype=torch.uint8)
        image = Image.frombytes("RGB", (width // 8, height // 8), bytes(coarse.flatten().tolist()))
        path = folder / split / f"class{number // 4 % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    print(f"{'':58}{'best':>12}{'median':>12}")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (args.images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(args.images) % 10
    in_memory = Images(pixels, labels, MEAN, STD, padding=4, flip=True)
    image_by_image = ImageByImage(pixels, labels)
    for threads in args.threads:
        torch.set_num_threads(threads)
        for workers in (0, threads):
            loader = DataLoader(image_by_image, batch_size=128, shuffle=True, num_workers=workers)
            slow = rates(lambda _, loader=loader: loader, 1)
            show(f"32 x 32, image by image, {threads} threads, {workers} workers", slow)
        fast = rates(lambda number: in_memory.batches(128, shuffle_seed=number), args.rounds)
        show(f"32 x 32, Images.batches, {threads} threads", fast, slow)

    torch.set_num_threads(1)
    for width, height in ((500, 375), (2000, 1500)):
        with tempfile.TemporaryDirectory() as folder:
            write_photographs(Path(folder), args.photos * 375 // height, width, height)
            for workers in args.workers:
                splits = photos("cpu", folder, classes=2, validation=0, workers=workers)
                title = f"JPEG of {width} x {height}, {workers} workers: "
                show(title + "training", rates(lambda n, s=splits: s.train.batches(32, shuffle_seed=n), 3))
                show(title + "evaluation", rates(lambda _, s=splits: s.test.batches(32), 3))


if __name__ == "__main__":
    main()
