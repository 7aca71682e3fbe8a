"""Time one optimizer step on the weights of large networks, ours beside torch's, all in one run.

    python benchmarks/optimizer_step.py [--network resnet50 vgg16 wrn28x10 gpt2] [--dtype float32 bfloat16]
        [--device cpu] [--rounds 31]

The optimizers take turns, round by round, so that a machine whose speed drifts slows all of them. Printed are

- the median and minimum in milliseconds, and their ratios to SGD(momentum=0.9, fused=True); the first is the median of
  the ratios round by round;
- the bytes a second of the step's least possible traffic over those of a copy: on a GPU 1 is the limit, on a CPU a copy
  also reads the lines it overwrites, so more is possible;
- the bytes of state over those of the weights.

Where the baseline's median is more than twice its minimum, something else is running, and the figures say little.
"""

import argparse
import platform
import statistics
import time

import torch
from torch import nn
from torch.optim import SGD, AdamW

from directional_pruning import GRDA, Directional


def resnet50():
    """Shapes of the 161 parameters of torchvision's ResNet-50: 25,557,032 numbers."""
    shapes, inputs = [(64, 3, 7, 7), (64,), (64,)], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolutions = [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                convolutions.append((4 * width, inputs, 1, 1))
            for shape in convolutions:
                shapes += [shape, shape[:1], shape[:1]]
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def vgg16():
    """The paper's VGG16 for CIFAR-10, without batch norm: 15,245,130 numbers."""
    shapes, inputs = [], 3
    for width in (64, 64, 128, 128, 256, 256, 256, *[512] * 6):
        shapes += [(width, inputs, 3, 3), (width,)]
        inputs = width
    for outputs in (512, 512, 10):
        shapes += [(outputs, 512), (outputs,)]
    return shapes


def wrn28x10():
    """The paper's wide ResNet for CIFAR-10: 36,489,290 numbers."""
    shapes, inputs = [(16, 3, 3, 3), (16,)], 16
    for width in (160, 320, 640):
        for block in range(4):
            shapes += [(inputs,), (inputs,), (width, inputs, 3, 3), (width,)]
            shapes += [(width,), (width,), (width, width, 3, 3), (width,)]
            if block == 0:
                shapes += [(width, inputs, 1, 1), (width,)]
            inputs = width
    return [*shapes, (640,), (640,), (10, 640), (10,)]


def gpt2():
    """GPT-2 small, its output tied to its input embedding: 124,439,808 numbers."""
    block = [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
    block += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
    return [(50257, 768), (1024, 768), *block * 12, (768,), (768,)]


NETWORKS = {"resnet50": resnet50, "vgg16": vgg16, "wrn28x10": wrn28x10, "gpt2": gpt2}
# Name -> (optimizer, passes over the weights, gradients and same-sized state that it cannot avoid, dual passes).
OPTIMIZERS = {
    "SGD(momentum, fused)": (lambda params: SGD(params, lr=1e-6, momentum=0.9, fused=True), 5, 0),
    "SGD(fused)": (lambda params: SGD(params, lr=1e-6, fused=True), 3, 0),
    "SGD": (lambda params: SGD(params, lr=1e-6), 3, 0),
    "AdamW(fused)": (lambda params: AdamW(params, lr=1e-6, fused=True), 7, 0),
    "GRDA": (lambda params: GRDA(params, lr=1e-6, c=1e-3), 2, 2),
    "GRDA(fused=False)": (lambda params: GRDA(params, lr=1e-6, c=1e-3, fused=False), 2, 2),
    "GRDA(momentum)": (lambda params: GRDA(params, lr=1e-6, c=1e-3, momentum=0.9), 2, 4),
    "Directional(SGD(fused))": (lambda params: Directional(SGD(params, lr=1e-6, fused=True), c=1e-3), 5, 4),
    "Directional(AdamW(fused))": (lambda params: Directional(AdamW(params, lr=1e-6, fused=True), c=1e-3), 9, 4),
}


def clock(function, device):
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


def compare(network, dtype, device, rounds):
    shapes = NETWORKS[network]()
    generator = torch.Generator().manual_seed(0)

    def tensors():
        return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]

    gradients, optimizers = tensors(), {}
    for name, (make, _, _) in OPTIMIZERS.items():
        params = [nn.Parameter(t) for t in tensors()]
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient
        optimizers[name] = make(params)
    count = sum(g.numel() for g in gradients)
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    times = {name: [] for name in ("copy", *OPTIMIZERS)}
    for i in range(rounds + 3):
        for name in times:
            step = (lambda: target.copy_(source)) if name == "copy" else optimizers[name].step
            milliseconds = clock(step, device)
            if i >= 3:
                times[name].append(milliseconds)

    place = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"\n{network}, {count:,} {str(dtype).removeprefix('torch.')} weights, {place}, {rounds} rounds")
    print(f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}")
    header = ("median ms", "min ms", "ratio", "min ratio", "of copy", "state / weights")
    print("optimizer".ljust(27) + "".join(title.rjust(len(title) + 2) for title in header))
    base = times["SGD(momentum, fused)"]
    bytes_per_ms = 8 * count / statistics.median(times["copy"])
    for name, (_, narrow, wide) in OPTIMIZERS.items():
        ratio = statistics.median(a / b for a, b in zip(times[name], base, strict=True))
        tensors_of_state = (t for s in optimizers[name].state.values() for t in s.values())
        state = sum(t.nbytes for t in tensors_of_state if isinstance(t, torch.Tensor)) / (count * dtype.itemsize)
        median, least = statistics.median(times[name]), min(times[name])
        share = count * (narrow * dtype.itemsize + 4 * wide) / median / bytes_per_ms
        print(f"{name:27}{median:11.2f}{least:8.2f}{ratio:7.2f}{least / min(base):11.2f}{share:9.2f}{state:17.6f}")
    if statistics.median(base) > 2 * min(base):
        print("not steady: something else is running on this machine")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=["resnet50"])
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=31)
    args = parser.parse_args()
    for network in args.network:
        for dtype in args.dtype:
            compare(network, getattr(torch, dtype), args.device, args.rounds)


if __name__ == "__main__":
    main()
