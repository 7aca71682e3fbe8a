"""Compare Directional(AdamW), gradual magnitude pruning and PAT lasso: loss against zeros of a character transformer.

    python benchmarks/char_pruning.py METHOD STRENGTH [STRENGTH ...] [--seeds 0] [--file char_pruning.jsonl]

METHOD, and the meaning of STRENGTH for it:
    dense        AdamW; any number
    directional  Directional(AdamW, power=4): c
    soft         Directional(AdamW), soft-thresholding: c
    magnitude    AdamW with gradual magnitude pruning: the final fraction of zeros
    pat          torchao's PruneOptimizer(AdamW) with ProxLasso: reg_lambda
    pat-heal     the same with healing: in the last fifth of training, surviving weights are not shrunk

All methods train the recipe ``chars`` with the same network, initial weights, batches, steps, rates and weight decay.
They prune the weights of attention and feed-forward, with one threshold for all layers. Each run adds a line of JSON to
the file; runs that are already in the file are not repeated.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from directional_pruning import Directional, prunable_groups
from directional_pruning.runs import chars_recipe
from directional_pruning.training import evaluate, fit


class GradualMagnitude:
    """Prune the smallest weights of all layers permanently, on a cubic schedule.

    The fraction of zeros is ``final * (1 - (1 - t)^3)`` with t rising from 0 to 1 between 5 and 80 % of training.
    Source: M. Zhu, S. Gupta, To prune, or not to prune, 2017.
    """

    def __init__(self, optimizer, weights, final, steps, every=10):
        self.weights, self.final, self.every = weights, final, every
        self.begin, self.end = 0.05 * steps, 0.8 * steps
        self.masks = [torch.ones_like(w, dtype=torch.bool) for w in weights]
        self.step = 0
        optimizer.register_step_post_hook(self)

    @torch.no_grad()
    def __call__(self, *_):
        self.step += 1
        t = min(max((self.step - self.begin) / (self.end - self.begin), 0.0), 1.0)
        for w, mask in zip(self.weights, self.masks, strict=True):
            w.mul_(mask)
        count = int(self.final * (1 - (1 - t) ** 3) * sum(w.numel() for w in self.weights))
        if self.step % self.every == 0 and count:
            threshold = torch.cat([w.abs().flatten() for w in self.weights]).kthvalue(count).values
            for w, mask in zip(self.weights, self.masks, strict=True):
                mask.logical_and_(w.abs() > threshold)
                w.mul_(mask)


def prepare(method, strength, recipe, model, steps):
    """The optimizer whose step is called, and the optimizer whose rate is scheduled."""
    prune, keep = prunable_groups(model, skip=recipe.skip)
    base = recipe.base([prune, keep], lr=recipe.lr, weight_decay=recipe.weight_decay)
    if method in ("directional", "soft"):
        optimizer = Directional(base, c=strength, mu=recipe.mu, power=4 if method == "directional" else 1)
        return optimizer, optimizer
    if method == "magnitude":
        GradualMagnitude(base, prune["params"], strength, steps)
    elif method.startswith("pat"):
        from torchao.prototype.pat.optim import PruneOptimizer

        base.param_groups[0].update(prox_type="ProxLasso", group_type="ElemGrouper", reg_lambda=strength)
        healing = {"healing_start_step": int(0.8 * steps)} if method == "pat-heal" else {}
        return PruneOptimizer(base, **healing), base
    return base, base


def train(method, strength, seed):
    """One run: its loss per character on the validation text, and its fraction of zeros among the prunable weights."""
    recipe = chars_recipe()
    splits = recipe.splits(torch.device("cpu"))
    torch.manual_seed(seed)
    model = recipe.network()
    steps = recipe.epochs * -(-len(splits.train) // recipe.batch_size)
    optimizer, scheduled = prepare(method, strength, recipe, model, steps)
    records = fit(
        model,
        optimizer,
        lambda epoch: splits.train.batches(recipe.batch_size, shuffle_seed=1_000_003 * seed + epoch),
        epochs=recipe.epochs,
        scheduler=LambdaLR(scheduled, lambda epoch: recipe.schedule(epoch, recipe.epochs)),
    )
    weights = nn.utils.parameters_to_vector(prunable_groups(model, skip=recipe.skip)[0]["params"])
    return {
        "loss": round(evaluate(model, splits.validation.batches(64))["loss"], 4),
        "zeros": round((weights == 0).float().mean().item(), 4),
        "steps": records[-1]["step"],
        "seconds": round(records[-1]["seconds"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["dense", "directional", "soft", "magnitude", "pat", "pat-heal"])
    parser.add_argument("strength", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--file", type=Path, default=Path("char_pruning.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # the network is small
    torch.set_flush_denormal(True)
    keys = ("method", "strength", "seed")
    lines = args.file.read_text().splitlines() if args.file.exists() else []
    done = {tuple(json.loads(line)[key] for key in keys) for line in lines}
    for seed in args.seeds:
        for strength in args.strength:
            run = dict(zip(keys, (args.method, strength, seed), strict=True))
            if tuple(run.values()) in done:
                continue
            line = json.dumps(run | train(**run))
            with open(args.file, "a") as file:
                file.write(line + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
