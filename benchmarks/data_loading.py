"""How many images a second reach the network: small ones from memory, photographs from files.

    python benchmarks/data_loading.py [--threads 1 2] [--images 50000] [--photos 512] [--workers 0 1 2] [--rounds 5]

Small images: 50,000 of CIFAR's size with random pixels, batches of 128, cropped with 4 pixels of padding, mirrored,
normalised to float32; once with ``Images.batches``, once image by image as torchvision's transforms do it (Pillow to
pad, crop and mirror; a tensor, divided and normalised; a DataLoader that stacks them), without workers and with as many
as threads. Photographs: JPEG files of 500 x 375 pixels and of 2000 x 1500 that this makes itself, through
``Photos.batches`` in training (random box, 224 pixels) and in evaluation, per number of workers.

Printed are images a second, the best and the median of the rounds, and the ratio of the medians.

With several threads and other programs on the same cores, threads spin while the others are not running; with
``OMP_WAIT_POLICY=PASSIVE`` in the environment they wait instead.
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
    """What RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor and Normalize do to one image after the other."""

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
    """Images a second of every round; ``epoch(number)`` makes the batches of one."""
    found = []
    for number in range(rounds + 1):
        start, seen = time.perf_counter(), 0
        for images, _ in epoch(number):
            seen += len(images)
        found.append(seen / (time.perf_counter() - start))
    return found[1:]


def show(name, found, against=None):
    ratio = f"{statistics.median(found) / statistics.median(against):9.1f} x" if against else ""
    print(f"{name:58}{max(found):12,.0f}{statistics.median(found):12,.0f}{ratio}", flush=True)


def photographs(folder, count, width, height):
    """JPEG files with the smooth noise of photographs, in two classes."""
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
    ours = Images(pixels, labels, MEAN, STD, padding=4, flip=True)
    theirs = ImageByImage(pixels, labels)
    for threads in args.threads:
        torch.set_num_threads(threads)
        for workers in (0, threads):
            loader = DataLoader(theirs, batch_size=128, shuffle=True, num_workers=workers)
            slow = rates(lambda _, loader=loader: loader, 1)
            show(f"32 x 32, image by image, {threads} threads, {workers} workers", slow)
        fast = rates(lambda number: ours.batches(128, shuffle_seed=number), args.rounds)
        show(f"32 x 32, ours, {threads} threads", fast, slow)

    torch.set_num_threads(1)
    for width, height in ((500, 375), (2000, 1500)):
        with tempfile.TemporaryDirectory() as folder:
            photographs(Path(folder), args.photos * 375 // height, width, height)
            for workers in args.workers:
                splits = photos("cpu", folder, classes=2, validation=0, workers=workers)
                title = f"JPEG of {width} x {height}, {workers} workers: "
                show(title + "training", rates(lambda n, s=splits: s.train.batches(32, shuffle_seed=n), 3))
                show(title + "evaluation", rates(lambda _, s=splits: s.test.batches(32), 3))


if __name__ == "__main__":
    main()
