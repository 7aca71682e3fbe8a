"""Time a whole training step of a network under GRDA and under torch's SGD, in one run.

    python benchmarks/training_step.py [--model torchvision:resnet50] [--size 224] [--batch 256] [--device auto]
        [--precision auto] [--rounds 31]

Images and labels are noise on the device. A step is forward under autocast, backward and optimizer step, in
channels_last. Each optimizer has a separate network with the same initial weights, and they alternate in each round.

It prints the median and minimum in milliseconds, and the median over the rounds of the ratio to plain SGD. On CUDA it
also prints the maximum memory allocated for the network, its optimizer and a step, and how much more this is than for
plain SGD, in buffers of the size of all parameters.
"""

import argparse
import platform
import statistics
import time

import torch
import torch.nn.functional as F
from torch.optim import SGD

from directional_pruning import GRDA
from directional_pruning.models import build
from directional_pruning.runs import prepare_torch
from directional_pruning.tensors import pick_device
from directional_pruning.training import measured_convolutions

OPTIMIZERS = {
    "SGD": lambda params: SGD(params, lr=1e-3),
    "SGD(fused)": lambda params: SGD(params, lr=1e-3, fused=True),
    "SGD(momentum, fused)": lambda params: SGD(params, lr=1e-3, momentum=0.9, fused=True),
    "GRDA": lambda params: GRDA(params, lr=1e-3, c=0.005, mu=0.55),
}


def clock(step, device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - began)


def training_step(args, make, device, autocast):
    """A function that makes one step of a new network, and the bytes of the network's parameters."""
    torch.manual_seed(0)
    model = build(args.model, 1000).to(device).to(memory_format=torch.channels_last)  # pyrefly: ignore
    optimizer = make(model.parameters())
    images = torch.randn(args.batch, 3, args.size, args.size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (args.batch,), device=device)

    def step():
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step, sum(p.nbytes for p in model.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet50", help="as of dirprune train")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--rounds", type=int, default=31)
    args = parser.parse_args()
    device = pick_device(args.device)
    prepare_torch(None)
    autocast = args.precision == "bfloat16" or (args.precision == "auto" and device.type == "cuda")
    cuda = device.type == "cuda"
    place = torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads"
    print(f"{args.model}, {args.batch} images of {args.size} x {args.size}, {'bfloat16' if autocast else 'float32'}")
    print(f"{place}, torch {torch.__version__}, Python {platform.python_version()}, {args.rounds} rounds")

    steps, memory, size = {}, {}, 0
    with measured_convolutions(device):
        for name, make in OPTIMIZERS.items():
            before = torch.cuda.memory_allocated(device) if cuda else 0
            steps[name], size = training_step(args, make, device, autocast)
            steps[name]()  # warm-up: creates the state and selects fast convolutions
            if cuda:
                torch.cuda.reset_peak_memory_stats(device)
            for _ in range(2):
                steps[name]()
            memory[name] = torch.cuda.max_memory_allocated(device) - before if cuda else 0
        times = {name: [] for name in steps}
        for _ in range(args.rounds):
            for name, step in steps.items():
                times[name].append(clock(step, device))

    for name, milliseconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(milliseconds, times["SGD"], strict=True))
        more = (memory[name] - memory["SGD"]) / size
        memory_text = f"{memory[name] / 2**20:10.1f} MiB {more:+6.2f} buffers" if cuda else ""
        print(
            f"{name:22}{statistics.median(milliseconds):10.2f} ms{min(milliseconds):10.2f} min{ratio:8.3f}{memory_text}"
        )


if __name__ == "__main__":
    main()
