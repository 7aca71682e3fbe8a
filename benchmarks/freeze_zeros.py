"""The time that locking the zeros adds to a training step, in one run.

    python benchmarks/freeze_zeros.py [--rounds 15]

Two copies of a network with 92 % zeros train alternately, one of them with its zeros locked. It prints the medians in
milliseconds, the median difference relative to the unlocked step, and the milliseconds for each step of clearing the
gradients and weights alone, which do not depend on the batch size.
"""

import argparse
import copy
import platform
import statistics
import time

import torch
from torch import nn
from torch.optim import SGD, AdamW

from directional_pruning import freeze_zeros
from directional_pruning.models import digits_net


def prune(model: nn.Module, zeros: float = 0.92) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.masked_fill_(torch.rand(p.shape) < zeros, 0)
            else:  # a trained bias is not zero
                p.add_(0.01)
    return model


def vgg16() -> nn.Module:
    layers, inputs = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


# Name -> (network, shape of a batch, optimizer, steps in a row).
CASES = {
    "digits net, 64 images of 8, SGD": (digits_net, (64, 1, 8, 8), lambda p: SGD(p, lr=1e-3, momentum=0.9), 20),
    "VGG16, 128 images of 32, SGD": (vgg16, (128, 3, 32, 32), lambda p: SGD(p, lr=1e-3, momentum=0.9), 1),
    "transformer of 19 M, 8 x 128 tokens, AdamW": (transformer, (8, 128, 512), lambda p: AdamW(p, lr=1e-3), 1),
}


def clock(function) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def measure(name: str, rounds: int) -> None:
    make, shape, optimize, steps = CASES[name]
    torch.manual_seed(0)
    unlocked = prune(make())
    locked, inputs = copy.deepcopy(unlocked), torch.randn(shape)
    optimizers = {model: optimize(model.parameters()) for model in (unlocked, locked)}
    handle = freeze_zeros(locked)

    def train(model: nn.Module) -> None:
        for _ in range(steps):
            optimizers[model].zero_grad()
            model(inputs).square().mean().backward()
            optimizers[model].step()

    times = {unlocked: [], locked: [], handle: []}
    for i in range(rounds + 3):
        for model in (unlocked, locked) if i % 2 else (locked, unlocked):
            times[model].append(clock(lambda model=model: train(model)) / steps)
        # A step clears the weights once and the gradients once.
        times[handle].append(clock(handle.apply) + clock(handle.apply))
    a, b, alone = (values[3:] for values in times.values())
    median = statistics.median
    added = median(y - x for x, y in zip(a, b, strict=True))
    print(
        f"{name:44}{median(a):9.1f}{median(b):9.1f}{added / median(a):10.2%}{median(alone):9.2f}"
        f"{median(alone) / median(a):9.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}, {threads} threads")
    print("training step".ljust(44) + " unlocked   locked     added clearing fraction")
    for name in args.case:
        measure(name, args.rounds)


if __name__ == "__main__":
    main()
