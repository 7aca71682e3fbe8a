"""Size of the sparse file, and the time to write and read it compared with safetensors, all in one run.

    python benchmarks/sparse_file.py [--zeros 0.92] [--rounds 9] [--threads 2]

Size: random masks on 4,000,000 normal weights, in bits per nonzero, its position included. The limit is the entropy of
the mask, H(s)/(1-s), and of the bytes of a value.

Time: the weights of ResNet-50, a random fraction of them zero. safetensors writes and reads them dense. It "loads" a
view of the file and reads nothing. A network is ready only after its weights have been copied, so the baseline is
``load_file`` and a copy; ``load_file`` alone is printed too. The programs alternate, round by round.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from optimizer_step import resnet50
from safetensors.torch import load_file, save_file

from directional_pruning import load_sparse, save_sparse
from directional_pruning.deploy import file_size


def masked(shape: tuple[int, ...], zeros: float, generator: torch.Generator) -> torch.Tensor:
    nonzero = torch.rand(shape, generator=generator) >= zeros
    return torch.where(nonzero, torch.randn(shape, generator=generator), 0.0)


def sizes() -> None:
    print("zeros  values  bits per nonzero  limit  of dense float32")
    for zeros in (0.92, 0.95, 0.98):
        weight = masked((2000, 2000), zeros, torch.Generator().manual_seed(0))
        for values in ("float32", "bfloat16"):
            size = file_size({"w": weight}, values=values)
            bits, least = size.bits_per_nonzero, size.least_bits_per_nonzero
            print(f"{zeros:.0%}    {values:9}{bits:15.2f}{least:7.2f}{weight.nbytes / size.sparse_bytes:11.1f} x less")


def clock(function) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def times(folder: Path, zeros: float, rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {
        f"{number}": masked(shape, zeros if len(shape) > 1 else 0.0, generator)
        for number, shape in enumerate(resnet50())
    }
    network = {name: torch.zeros_like(tensor) for name, tensor in state.items()}

    def copy(loaded):
        for name, tensor in loaded.items():
            network[name].copy_(tensor)

    programs = {
        "save_file": lambda: save_file(state, folder / "dense"),
        "save_sparse": lambda: save_sparse(state, folder / "sparse"),
        "save_sparse, bfloat16": lambda: save_sparse(state, folder / "sparse16", values="bfloat16"),
        "load_file, nothing read": lambda: load_file(folder / "dense"),
        "load_file and a clone": lambda: {name: tensor.clone() for name, tensor in load_file(folder / "dense").items()},
        "load_sparse": lambda: load_sparse(folder / "sparse"),
        "load_sparse, bfloat16": lambda: load_sparse(folder / "sparse16"),
        "load_file into the network": lambda: copy(load_file(folder / "dense")),
        "load_sparse into the network": lambda: copy(load_sparse(folder / "sparse")),
    }
    spent = {name: [] for name in programs}
    for i in range(rounds + 1):
        for name, program in programs.items():
            milliseconds = clock(program)
            if i:
                spent[name].append(milliseconds)
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_sparse(folder / "sparse").items())

    count, dense = sum(t.numel() for t in state.values()), (folder / "dense").stat().st_size
    print(f"\nResNet-50, {count:,} float32 weights, {zeros:.0%} of the prunable ones zero, {rounds} rounds, medians")
    print("program                        milliseconds   ratio to")
    baselines = {"save": "save_file", "load": "load_file and a clone"}
    for name in programs:
        baseline = "load_file into the network" if "into" in name else baselines[name[:4]]
        ratio = statistics.median(a / b for a, b in zip(spent[name], spent[baseline], strict=True))
        print(f"{name:31}{statistics.median(spent[name]):12.1f}{ratio:8.2f}   {baseline}")
    for name in ("sparse", "sparse16"):
        size = (folder / name).stat().st_size
        print(f"{name}: {size:,} bytes, dense {dense:,}, {dense / size:.1f} times smaller")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zeros", type=float, default=0.92)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}, {args.threads} threads"
    )
    with tempfile.TemporaryDirectory() as folder:
        sizes()
        times(Path(folder), args.zeros, args.rounds)


if __name__ == "__main__":
    main()
