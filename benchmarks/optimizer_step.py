"""Time one optimizer step on the weights of large networks, ours beside others', all in one run.

    python benchmarks/optimizer_step.py [--network resnet50 vgg16 wrn28x10 gpt2 tiny] [--dtype float32 bfloat16]
        [--device cpu cuda] [--rounds 31] [--compile]

The optimizers take turns, round by round, so that a machine whose speed drifts slows all of them. Printed are

- the median and minimum in milliseconds, and their ratios to SGD(momentum=0.9, fused=True); the first is the median of
  the ratios round by round;
- the bytes a second of the step's least possible traffic over those of a copy: on a GPU 1 is the limit, on a CPU a copy
  also reads the lines it overwrites, so more is possible;
- the bytes of state over those of the weights;
- on CUDA the median from an idle device on, Python and launches included. All other figures are those of a step in
  training: the device is still busy when it is called, so that only what the device does for it counts;
- on CUDA the median of the step replayed as a CUDA graph, where the optimizer can be captured;
- with ``--compile``, for rows with a step under ``torch.compile``, the seconds of its first call.

GRDA alone uses the kernels, "for-loop" goes tensor by tensor through torch's operations. PAT is torchao's pruning
optimizer, measured where torchao is installed. Where the baseline's median is more than twice its minimum, something
else is running, and the figures say little.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from directional_pruning import GRDA, Directional, models


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


def shapes_of(model):
    with torch.device("meta"):
        return [tuple(p.shape) for p in model().parameters()]


def gpt2():
    """GPT-2 small, its output tied to its input embedding: 124,439,808 numbers."""
    block = [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
    block += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
    return [(50257, 768), (1024, 768), *block * 12, (768,), (768,)]


NETWORKS = {
    "resnet50": resnet50,
    "vgg16": lambda: shapes_of(models.vgg16),
    "wrn28x10": lambda: shapes_of(models.wrn28x10),
    "gpt2": gpt2,
    # As many tensors as ResNet-50 has, so small that only what is done for each counts.
    "tiny": lambda: [(8,)] * 161,
}


class Row(NamedTuple):
    """How to make an optimizer, and the passes over memory that a step of it cannot avoid."""

    make: Callable[[list[nn.Parameter]], Optimizer]
    narrow: int  # over weights, gradients and state in their dtype
    wide: int  # over float32 state
    captured: bool = False  # also as a CUDA graph
    compiled: bool = False  # under torch.compile


def pat(base, params, **options):
    """torchao's lasso on single weights over a base, which keeps a latent copy of the weights."""
    from torchao.prototype.pat.optim import PruneOptimizer

    group = {"params": params, "prox_type": "ProxLasso", "group_type": "ElemGrouper"}
    return PruneOptimizer(base([group], lr=1e-6, fused=True, **options), reg_lambda=1e-3)


def on_gpu(params):
    return params[0].is_cuda


ROWS = {
    "SGD(momentum, fused)": Row(lambda p: SGD(p, lr=1e-6, momentum=0.9, fused=True), 5, 0, captured=True),
    "SGD(fused)": Row(lambda p: SGD(p, lr=1e-6, fused=True), 3, 0, captured=True),
    "SGD": Row(lambda p: SGD(p, lr=1e-6), 3, 0, captured=True),
    "SGD(momentum)": Row(lambda p: SGD(p, lr=1e-6, momentum=0.9), 5, 0, captured=True),
    "AdamW": Row(lambda p: AdamW(p, lr=1e-6, capturable=on_gpu(p)), 7, 0, captured=True),
    "AdamW(fused)": Row(lambda p: AdamW(p, lr=1e-6, fused=True, capturable=on_gpu(p)), 7, 0, captured=True),
    "GRDA": Row(lambda p: GRDA(p, lr=1e-6, c=1e-3, capturable=on_gpu(p)), 2, 2, captured=True),
    "GRDA(foreach)": Row(lambda p: GRDA(p, lr=1e-6, c=1e-3, foreach=True, capturable=on_gpu(p)), 2, 2, captured=True),
    "GRDA(for-loop)": Row(lambda p: GRDA(p, lr=1e-6, c=1e-3, foreach=False, fused=False), 2, 2),
    "GRDA(momentum)": Row(lambda p: GRDA(p, lr=1e-6, c=1e-3, momentum=0.9, capturable=on_gpu(p)), 2, 4, captured=True),
    "Directional(SGD(fused))": Row(lambda p: Directional(SGD(p, lr=1e-6, fused=True), c=1e-3), 5, 2),
    "Directional(AdamW(fused))": Row(lambda p: Directional(AdamW(p, lr=1e-6, fused=True), c=1e-3), 9, 2),
}
if find_spec("torchao"):
    ROWS["PAT(SGD(fused))"] = Row(lambda p: pat(SGD, p), 4, 0)
    ROWS["PAT(AdamW(fused))"] = Row(lambda p: pat(AdamW, p), 8, 0)
COMPILED = {
    "SGD(momentum), compiled": Row(lambda p: SGD(p, lr=1e-6, momentum=0.9), 5, 0, compiled=True),
    "GRDA, compiled": Row(lambda p: GRDA(p, lr=1e-6, c=1e-3), 2, 2, compiled=True),
}


def clock(function, device, *, idle=False):
    """Milliseconds of one call; on CUDA between two events, the second after the device has done its work."""
    if device == "cpu":
        began = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - began)
    # Some ten milliseconds, in which the host enqueues the call; more, where it needs longer.
    cycles = 0 if idle else 20_000_000
    while True:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        if cycles:
            torch.cuda._sleep(cycles)
        begin.record()
        function()
        late = begin.query()
        end.record()
        end.synchronize()
        if idle or not late or cycles > 10**9:  # a call that waits for the device is never early
            return begin.elapsed_time(end)
        cycles *= 4


def captured(step):
    """The step as a CUDA graph, after three in the open that make the state."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def state_bytes(optimizer):
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def compare(network, dtype, device, rounds, rows):
    shapes = NETWORKS[network]()
    generator = torch.Generator().manual_seed(0)

    def tensors():
        return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]

    gradients, optimizers, steps, seconds = tensors(), {}, {}, {}
    count = sum(g.numel() for g in gradients)
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    steps["copy"] = lambda: target.copy_(source)
    for name, row in rows.items():
        params = [nn.Parameter(t) for t in tensors()]
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient
        optimizers[name] = row.make(params)
        steps[name] = optimizers[name].step
        if row.compiled:
            steps[name] = torch.compile(steps[name])
            seconds[name] = clock(steps[name], device, idle=True) / 1e3
        if row.captured and device == "cuda":
            steps[f"{name}, graph"] = captured(steps[name])
    times, alone = {name: [] for name in steps}, {name: [] for name in steps}
    for i in range(rounds + 3):
        for name, step in steps.items():
            milliseconds = clock(step, device)
            if i >= 3:
                times[name].append(milliseconds)
            if i >= 3 and name in (*rows, "copy") and device == "cuda":
                alone[name].append(clock(step, device, idle=True))

    place = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"\n{network}, {count:,} {str(dtype).removeprefix('torch.')} weights, {place}, {rounds} rounds")
    print(f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}")
    bytes_per_ms = 8 * count / statistics.median(times["copy"])
    print(f"copy: {bytes_per_ms / 1e6:.1f} GB/s")
    header = (
        "median ms",
        "min ms",
        "ratio",
        "min ratio",
        "of copy",
        "state / weights",
        "alone ms",
        "graph ms",
        "compile s",
    )
    print("optimizer".ljust(27) + "".join(title.rjust(len(title) + 2) for title in header))
    base = times["SGD(momentum, fused)"]
    for name, row in rows.items():
        ratio = statistics.median(a / b for a, b in zip(times[name], base, strict=True))
        median, least = statistics.median(times[name]), min(times[name])
        share = count * (row.narrow * dtype.itemsize + 4 * row.wide) / median / bytes_per_ms
        state = state_bytes(optimizers[name]) / (count * dtype.itemsize)
        replay = times.get(f"{name}, graph")
        idle = f"{statistics.median(alone[name]):.3f}" if alone[name] else "-"
        graph, compiling = f"{statistics.median(replay):.3f}" if replay else "-", seconds.get(name)
        print(
            f"{name:27}{median:11.3f}{least:8.3f}{ratio:7.2f}{least / min(base):11.2f}{share:9.2f}{state:17.6f}"
            f"{idle:>10}{graph:>10}" + ("-" if compiling is None else f"{compiling:.1f}").rjust(11)
        )
    if statistics.median(base) > 2 * min(base):
        print("not steady: something else is running on this machine")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=["resnet50"])
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    found = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", nargs="+", choices=["cpu", "cuda"], default=found)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--compile", action="store_true", help="also steps under torch.compile, a minute or two each")
    args = parser.parse_args()
    for network in args.network:
        for dtype in args.dtype:
            for device in args.device:
                rows = {**ROWS, **COMPILED} if args.compile else ROWS
                compare(network, getattr(torch, dtype), device, args.rounds, rows)


if __name__ == "__main__":
    main()
