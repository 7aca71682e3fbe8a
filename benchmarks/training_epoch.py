"""Measure the seconds of one epoch of a recipe, with augmentation, and the fraction of them that loading takes.

    python benchmarks/training_epoch.py [--recipe vgg16-cifar10 wrn28x10-cifar10] [--device auto] [--precision auto]
        [--images 50000] [--steps 0] [--rounds 3] [--compile]

The images are noise in the shape of CIFAR-10, because their content does not change the time. For each recipe and each
of its two networks an epoch is trained as ``dirprune train`` does it. Then an epoch is only loaded: shuffled, cropped,
mirrored and normalised. ``--steps`` stops an epoch after this number of batches, for slow machines. The seconds of an
epoch are then extrapolated, and the output says so.

It prints medians over the rounds: seconds of an epoch, the fraction that loading alone takes, and images per second; on
CUDA also the maximum of allocated memory. On a GPU the CPU prepares batches while the device computes, so the fraction
is an upper bound of the cost of loading.
"""

import argparse
import itertools
import platform
import statistics
import time
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from directional_pruning.data import Images
from directional_pruning.runs import RECIPES, prepare_torch
from directional_pruning.tensors import pick_device
from directional_pruning.training import fit, measured_convolutions


def finish(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(function, device):
    finish(device)
    began = time.perf_counter()
    function()
    finish(device)
    return time.perf_counter() - began


def measure(recipe, network, images, device, steps, rounds):
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model = recipe.network().to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    if recipe.compile:
        model.compile(mode="reduce-overhead" if device.type == "cuda" else "default")
    optimizer = recipe.optimizer(model, network)

    def batches(epoch):
        return itertools.islice(images.batches(recipe.batch_size, shuffle_seed=epoch), steps)

    def train():
        loss = partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
        with measured_convolutions(device):
            fit(model, optimizer, batches, epochs=1, loss_fn=loss, autocast=recipe.autocast(device))

    def load():
        for inputs, _ in batches(1):
            del inputs

    train(), load()  # warm-up
    pairs = [(clock(train, device), clock(load, device)) for _ in range(rounds)]
    return [statistics.median(part) for part in zip(*pairs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["vgg16-cifar10", "wrn28x10-cifar10"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = pick_device(args.device)
    prepare_torch(None)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{platform.machine()}, {name}, torch {torch.__version__}, Python {platform.python_version()}")
    for recipe in args.recipe:
        chosen = replace(RECIPES[recipe](), precision=args.precision, compile=args.compile)
        pixels = torch.randint(256, (args.images, 3, 32, 32), dtype=torch.uint8).to(device)
        labels = torch.randint(chosen.num_classes, (args.images,)).to(device)
        images = Images(pixels, labels, chosen.mean, chosen.std, padding=4, flip=True)
        whole = -(-args.images // chosen.batch_size)
        steps = min(args.steps or whole, whole)
        for network in ("sgd", "grda"):
            trained, loaded = measure(chosen, network, images, device, steps, args.rounds)
            count = min(steps * chosen.batch_size, args.images)
            note = "" if steps == whole else f" (extrapolated from {steps} of {whole} steps)"
            memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB" if device.type == "cuda" else ""
            print(
                f"{recipe} {network}: {trained * whole / steps:.2f} s an epoch{note}, loading {loaded / trained:.1%}, "
                f"{count / trained:,.0f} images a second, {count / loaded:,.0f} loaded alone{memory}"
            )


if __name__ == "__main__":
    main()
