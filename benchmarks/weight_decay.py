"""Compare weight decay of the weights and of the dual under Directional(AdamW), on the digits with a few seeds.

    python benchmarks/weight_decay.py [--decay 0 0.1 1] [--c 1] [--seeds 0 1 2] [--epochs 60]

It prints the mean fraction of zeros among all parameters and the mean test accuracy.
"""

import argparse
import itertools
import statistics

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from directional_pruning import Directional, prunable_groups
from directional_pruning.data import digits
from directional_pruning.models import digits_net
from directional_pruning.training import evaluate, fit, paper_schedule


def train(decay, on, c, seed, epochs):
    """Fraction of zeros and test accuracy of one network; ``on`` is "weights" or "dual"."""
    splits = digits()
    torch.manual_seed(seed)
    model = digits_net()
    base = AdamW(prunable_groups(model), lr=0.01, weight_decay=decay if on == "weights" else 0.0)
    optimizer = Directional(base, c=c, mu=0.6)

    @torch.no_grad()
    def decay_the_dual(*_):
        # Directional adds the change of the weights to the dual, so this is v -= lr * decay * v.
        for group in optimizer.param_groups:
            for w in group["params"]:
                dual = optimizer.state[w].get("dual", w) if w in optimizer.state else w
                w.sub_(dual, alpha=group["lr"] * decay)

    if on == "dual":
        base.register_step_post_hook(decay_the_dual)
    records = fit(
        model,
        optimizer,
        lambda epoch: splits.train.batches(64, shuffle_seed=1_000_003 * seed + epoch),
        epochs=epochs,
        scheduler=LambdaLR(optimizer, lambda epoch: paper_schedule(epoch, epochs)),
    )
    return records[-1]["sparsity_all"], evaluate(model, splits.test.batches(450))["accuracy"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decay", type=float, nargs="+", default=[0.0, 0.1, 1.0])
    parser.add_argument("--c", type=float, nargs="+", default=[1.0], help="strengths of pruning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the network is small
    torch.set_flush_denormal(True)
    for decay, c in itertools.product(args.decay, args.c):
        for on in ("weights", "dual") if decay else ("weights",):
            runs = [train(decay, on, c, seed, args.epochs) for seed in args.seeds]
            zeros, accuracy = (statistics.mean(column) for column in zip(*runs, strict=True))
            print(f"decay {decay} on the {on}, c {c}: zeros {zeros:.1%}, test accuracy {accuracy:.2%}", flush=True)


if __name__ == "__main__":
    main()
