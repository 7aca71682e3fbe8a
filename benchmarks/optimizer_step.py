"""Time one optimizer step on the weights of a large network, ours beside torch's, all in one run.

    python benchmarks/optimizer_step.py [--rounds 31]

The optimizers take turns, round by round, so that a machine whose speed drifts slows all of them. Printed are the
median and minimum in milliseconds, their ratios to SGD(momentum=0.9, fused=True) (the first is the median of the
ratios round by round) and the bytes of state. Where the baseline's median is more than twice its minimum, something
else is running, and the figures say little.
"""

import argparse
import platform
import statistics
import time

import torch
from torch import nn

from directional_pruning import GRDA


def resnet50():
    """Shapes of the 161 parameters of torchvision's ResNet-50: 25,557,032 numbers."""
    shapes = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolutions = [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                convolutions.append((4 * width, inputs, 1, 1))
            for shape in convolutions:
                shapes += [shape, shape[:1], shape[:1]]
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


OPTIMIZERS = {
    "SGD(momentum, fused)": lambda params: torch.optim.SGD(params, lr=1e-6, momentum=0.9, fused=True),
    "SGD(fused)": lambda params: torch.optim.SGD(params, lr=1e-6, fused=True),
    "SGD": lambda params: torch.optim.SGD(params, lr=1e-6),
    "AdamW(fused)": lambda params: torch.optim.AdamW(params, lr=1e-6, fused=True),
    "GRDA": lambda params: GRDA(params, lr=1e-6, c=1e-3),
    "GRDA(momentum)": lambda params: GRDA(params, lr=1e-6, c=1e-3, momentum=0.9),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds

    shapes = resnet50()
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]
    optimizers, times = {}, {name: [] for name in OPTIMIZERS}
    for name, make in OPTIMIZERS.items():
        params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient
        optimizers[name] = make(params)
    for i in range(rounds + 3):
        for name, optimizer in optimizers.items():
            began = time.perf_counter()
            optimizer.step()
            if i >= 3:
                times[name].append(1e3 * (time.perf_counter() - began))

    count = sum(p.numel() for p in optimizers["GRDA"].param_groups[0]["params"])
    print(f"ResNet-50, {count:,} float32 weights, cpu, {torch.get_num_threads()} threads, {rounds} rounds")
    print(f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}")
    print(
        f"{'optimizer':22}{'median ms':>11}{'min ms':>9}{'ratio':>8}{'min ratio':>11}{'state bytes / weight bytes':>29}"
    )
    base = times["SGD(momentum, fused)"]
    for name, optimizer in optimizers.items():
        ratio = statistics.median(a / b for a, b in zip(times[name], base, strict=True))
        state = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor))
        median, least = statistics.median(times[name]), min(times[name])
        print(f"{name:22}{median:11.2f}{least:9.2f}{ratio:8.2f}{least / min(base):11.2f}{state / (4 * count):29.6f}")
    if statistics.median(base) > 2 * min(base):
        print("not steady: something else is running on this machine")


if __name__ == "__main__":
    main()
