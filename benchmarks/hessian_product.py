"""Measure the cost of a Hessian product, in gradients over the same data; curvlinops, if installed, for comparison.

    python benchmarks/hessian_product.py

The digits' network in evaluation mode on its 1,212 training images, float32, one thread. Each round times every
method once, so that all run under the same load. The figures are medians, and their ratios to the gradient.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from directional_pruning.data import digits
from directional_pruning.landscape import hessian_product
from directional_pruning.models import digits_net


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, train = digits_net().eval(), digits().train
    batches, parameters = list(train.batches(options.batch_size)), list(model.parameters())
    v = torch.randn(sum(p.numel() for p in parameters))

    def gradient():
        total = torch.zeros_like(v)
        for x, y in batches:
            parts = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
            total.add_(torch.cat([part.flatten() for part in parts]), alpha=len(y) / len(train))
        return total

    full, gauss = (hessian_product(model, F.cross_entropy, batches, gauss_newton=g) for g in (False, True))
    methods: dict[str, Callable] = {"gradient": gradient, "Hessian": lambda: full(v), "Gauss-Newton": lambda: gauss(v)}
    try:
        from curvlinops import GGNLinearOperator, HessianLinearOperator

        for name, kind in (("Hessian", HessianLinearOperator), ("Gauss-Newton", GGNLinearOperator)):
            loss = torch.nn.CrossEntropyLoss()
            operator = kind(model, loss, parameters, batches, check_deterministic=False, num_data=len(train))
            torch.testing.assert_close(operator @ v, methods[name](), rtol=1e-3, atol=1e-5)
            methods[f"{name}, curvlinops"] = partial(operator.__matmul__, v)
    except ModuleNotFoundError:
        print("curvlinops is not installed: pip install curvlinops-for-pytorch")

    seconds = {name: [] for name in methods}
    for _ in range(options.rounds + 1):
        for name, method in methods.items():
            began = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - began)
    print(f"torch {torch.__version__}, {options.threads} thread(s), batches of {options.batch_size}")
    base = statistics.median(seconds["gradient"][1:])
    for name, times in seconds.items():
        median = statistics.median(times[1:])
        print(f"{name:26} {1e3 * median:8.1f} ms  {median / base:5.2f} gradients")


if __name__ == "__main__":
    main()
