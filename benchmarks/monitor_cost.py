"""The time that SparsityMonitor adds to a training step of ResNet-50 on the CPU, in one run.

    python benchmarks/monitor_cost.py [--batch 4] [--interval 100] [--rounds 9] [--zeros 0.9]

Looks come so seldom that their time disappears in the noise of a training step. So the parts are measured in turns:
forward and backward, the step of GRDA without a monitor, one look of the monitor, and the hook in a step without a
look. Printed are the medians in milliseconds, and (look / interval + hook) over the training step and over the
optimizer's step alone.
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from directional_pruning import GRDA, SparsityMonitor, prunable_groups
from directional_pruning.models import build

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import conftest  # noqa: F401  (makes torchvision importable beside a CPU-only torch)


def clock(function, repeat=1) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        function()
    return 1e3 * (time.perf_counter() - start) / repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--interval", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--zeros", type=float, default=0.9, help="fraction of the pruned weights")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    model = build("torchvision:resnet50", 1000)
    groups = prunable_groups(model)
    with torch.no_grad():
        for p in groups[0]["params"]:
            p.masked_fill_(torch.rand(p.shape) < args.zeros, 0)
    optimizer = GRDA(groups, lr=1e-6, c=1e-6)
    images, labels = torch.randn(args.batch, 3, 224, 224), torch.randint(1000, (args.batch,))

    def gradients() -> None:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()

    monitor = SparsityMonitor(model, optimizer, interval=args.interval)
    monitor.remove()  # its parts are called by hand
    gradients()
    times = {"forward and backward": [], "optimizer's step": [], "look": [], "hook": []}
    for i in range(args.rounds + 1):
        row = clock(gradients), clock(optimizer.step), clock(monitor._begin)
        monitor._steps = 0
        row = (*row, clock(lambda: monitor._after_step(optimizer), args.interval - 1))
        if i:  # the first warms up
            for values, value in zip(times.values(), row, strict=True):
                values.append(value)
    compute, step, look, hook = map(statistics.median, times.values())
    added = look / args.interval + hook
    print(f"torch {torch.__version__}, python {platform.python_version()}, {torch.get_num_threads()} threads")
    print(f"ResNet-50, {sum(p.numel() for p in model.parameters()):,} parameters, {args.batch} images of 224 x 224")
    print("".join(f"{name:24}{statistics.median(values):10.3f} ms\n" for name, values in times.items()), end="")
    print(f"added to each step      {added:10.3f} ms")
    print(f"of the training step    {added / (compute + step):10.3%}")
    print(f"of the optimizer's step {added / step:10.2%}")


if __name__ == "__main__":
    main()
