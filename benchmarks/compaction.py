"""Size and speed of a trained digits network and of VGG16, before and after compaction, in one run.

    python benchmarks/compaction.py RUN [--zeros 0.95] [--dead 0.5] [--batch 8] [--rounds 11]

RUN is the folder of ``dirprune train digits``. VGG16 is not trained: zeros are set at random positions, and a fraction
of its filters and hidden neurons is dead, with biases that are not zero. The rows "no zeros" have the same shapes
without any zero: they show the effect of unstructured zeros alone.

It prints parameters, nonzeros, multiply-adds of one image, the bytes of the sparse file (float32, lossless) and of the
ONNX file, dense and sparse, and the median milliseconds of one batch on one thread. Networks and runtimes alternate.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch
from torch import nn

from directional_pruning import compact, export_onnx, load_sparse, save_sparse, sparsity_report
from directional_pruning.models import digits_net, vgg16


def add_zeros(model, zeros, dead):
    """Set zeros at random positions, and whole filters and neurons in every layer but the last."""
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        for layer in layers:
            layer.weight[torch.rand_like(layer.weight) < zeros] = 0
        for layer in layers[:-1]:
            layer.weight[: round(dead * len(layer.weight))] = 0


def without_zeros(model):
    dense = copy.deepcopy(model)
    with torch.no_grad():
        for p in dense.parameters():
            p[p == 0] = 1e-3
    return dense


def measure(networks, image, batch, rounds, folder):
    """One row of figures for each network; the networks alternate in the timing loop."""
    x, rows, calls = image.expand(batch, *image.shape[1:]).contiguous(), [], []
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, model in networks.items():
        model.eval()
        report = sparsity_report(model, image)
        small, dense, sparse = (folder / f"{len(rows)}.{kind}" for kind in ("safetensors", "onnx", "sparse.onnx"))
        save_sparse(model, small)
        export_onnx(model, image, dense)
        if report.sparsity:
            export_onnx(model, image, sparse, sparse=True)
        else:
            sparse = dense
        sizes = [path.stat().st_size for path in (small, dense, sparse)]
        rows.append([name, report.total, report.nonzeros, report.multiply_adds, *sizes])
        session = onnxruntime.InferenceSession(sparse, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x.numpy()}
        calls.append((lambda m=model: m(x), lambda s=session, f=feed: s.run(None, f)))
    times = [([], []) for _ in rows]
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for pair, spent in zip(calls, times):
                for call, milliseconds in zip(pair, spent):
                    start = time.perf_counter()
                    call()
                    milliseconds.append(1e3 * (time.perf_counter() - start))
    return [[*row, *(statistics.median(t[1:]) for t in spent)] for row, spent in zip(rows, times)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--zeros", type=float, default=0.95)
    parser.add_argument("--dead", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    digits = digits_net()
    digits.load_state_dict(load_sparse(args.run / "model.sparse.safetensors"))
    vgg = vgg16()
    add_zeros(vgg, args.zeros, args.dead)
    header = (
        "parameters",
        "nonzero",
        "multiply-adds",
        "sparse file",
        "ONNX",
        "sparse ONNX",
        "torch ms",
        "ONNX Runtime ms",
    )
    print(f"{'':34}" + "".join(f"{name:>17}" for name in header))
    with tempfile.TemporaryDirectory() as folder:
        for name, model, image in (
            ("digits", digits, torch.randn(1, 1, 8, 8)),
            (f"VGG16, {args.dead:.0%} dead filters", vgg, torch.randn(1, 3, 32, 32)),
        ):
            start = time.perf_counter()
            smaller = compact(model, image)
            seconds = time.perf_counter() - start
            networks = {"no zeros": without_zeros(model), "zeros": model, "compact": smaller}
            for label, *figures in measure(networks, image, args.batch, args.rounds, Path(folder)):
                cells = [f"{x:17,.3f}" if isinstance(x, float) else f"{x:17,}" for x in figures]
                print(f"{name + ': ' + label:34}" + "".join(cells), flush=True)
            print(f"  compacted in {seconds:.1f} s")


if __name__ == "__main__":
    main()
