"""90 % zeros on five small networks as users have them, one run each: our target, gradual magnitude, dense.

    python benchmarks/small_networks.py [--networks digits tabular] [--methods dense magnitude target] [--base adamw]
        [--seeds 0 1 2] [--on test] [--settings '{"power": 8}']

- ``digits``: an MLP 64-256-10 on 8 x 8 digits, AdamW 1e-3, cosine, 20 epochs;
- ``tabular``: an MLP 30-256-256-2 on the breast cancer data, AdamW 1e-3, constant rate, 60 epochs;
- ``finetune``: an MLP trained on five of the digits goes on with the other five: AdamW 3e-4, cosine, 30 epochs, the new
  last layer not pruned;
- ``photos``: timm's resnet10t on 160 drawn pictures in four classes, SGD 0.1 with momentum 0.9, cosine, 15 epochs;
- ``bert``: two layers of BERT, width 64, on a question about 400 sequences, AdamW 5e-4, linear, 4 epochs; embeddings
  and classifier not pruned.

``--on validation`` trains without a fifth of the training data and measures on that: for choosing settings.
"""

import argparse
import copy
import json
import platform
import statistics
import sys
from functools import cache, partial
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "tests"))
import itertools

import conftest  # noqa: F401  (makes torchvision importable beside a CPU-only torch)
import rivals

from directional_pruning import Directional, Target, prunable_groups


def mlp(*widths):
    layers = [layer for pair in itertools.pairwise(widths) for layer in (torch.nn.Linear(*pair), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


@cache
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)  # pyrefly: ignore


class Digits:
    batch, epochs, rate, schedule, skip = 64, 20, 1e-3, "cosine", ("norm", "bias")

    def data(self):
        x, y = digits()
        return x[:1500], y[:1500], x[1500:], y[1500:]

    def network(self, seed):
        return mlp(64, 256, 10)


class Tabular:
    batch, epochs, rate, schedule, skip = 32, 60, 1e-3, "constant", ("norm", "bias")

    def data(self):
        from sklearn.datasets import load_breast_cancer
        from sklearn.preprocessing import StandardScaler

        table = load_breast_cancer()
        x = torch.tensor(StandardScaler().fit_transform(table.data), dtype=torch.float32)  # pyrefly: ignore
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, y = x[order], torch.tensor(table.target)[order]  # pyrefly: ignore
        return x[:400], y[:400], x[400:], y[400:]

    def network(self, seed):
        return mlp(30, 256, 256, 2)


class Finetune:
    batch, epochs, rate, schedule, skip = 64, 30, 3e-4, "cosine", ("norm", "bias", "4.*")

    def data(self):
        x, y = digits()
        x, y = x[y >= 5], y[y >= 5] - 5
        return x[:700], y[:700], x[700:], y[700:]

    @staticmethod
    @cache
    def pretrained(seed):
        x, y = digits()
        x, y = x[y < 5], y[y < 5]
        model = mlp(64, 256, 256, 5)
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(prunable_groups(model), lr=2e-3, weight_decay=0.01)
        for _ in range(20):
            for batch in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
        return model

    def network(self, seed):
        model = copy.deepcopy(self.pretrained(seed))
        torch.manual_seed(seed + 9)
        model[4] = torch.nn.Linear(256, 5)
        return model


class Photos:
    batch, epochs, rate, schedule, skip = 20, 15, 0.1, "cosine", ("norm", "bias")

    @staticmethod
    @cache
    def data():
        """Rings, discs, stripes and checks with noise, 32 x 32 pixels: 40 of each to train, 50 to test."""
        generator = torch.Generator().manual_seed(0)
        parts = []
        for count in (40, 50):
            images, labels = [], []
            y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
            for label in range(4):
                for _ in range(count):
                    cx, cy, a, angle = (torch.rand(4, generator=generator) * torch.tensor([12, 12, 4, 3.0])).tolist()
                    radius, a = torch.hypot(x - 10 - cx, y - 10 - cy), a + 5
                    turned = x * torch.tensor(angle).cos() + y * torch.tensor(angle).sin()
                    shapes = (radius - a).abs() < 2, radius < a, (turned // 3) % 2 > 0, (x // 4 + y // 4) % 2 > 0
                    inside = torch.rand(3, 1, 1, generator=generator) * 1.1 - 0.1
                    outside = torch.rand(3, 1, 1, generator=generator) * 1.0 - 1.0
                    image = torch.where(shapes[label], inside, outside)
                    images.append(image + 0.2 * torch.randn(3, 32, 32, generator=generator))
                    labels.append(label)
            order = torch.randperm(len(labels), generator=generator)
            parts += [torch.stack(images)[order], torch.tensor(labels)[order]]
        return tuple(parts)

    def network(self, seed):
        import timm

        return timm.create_model("resnet10t", num_classes=4)


class Bert:
    batch, epochs, rate, schedule = 32, 4, 5e-4, "linear"
    skip = ("norm", "bias", "embedding", "classifier.*")

    def data(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(5, 200, (512, 24), generator=generator)
        y = ((x < 60).sum(1) > 6).long()
        return x[:400], y[:400], x[400:], y[400:]

    def network(self, seed):
        from transformers import BertConfig, BertForSequenceClassification

        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
        model = BertForSequenceClassification(BertConfig(vocab_size=200, num_labels=2, **sizes))  # pyrefly: ignore
        forward = model.forward
        model.forward = lambda x: forward(input_ids=x).logits
        return model


NETWORKS = {"digits": Digits, "tabular": Tabular, "finetune": Finetune, "photos": Photos, "bert": Bert}


def optimizer_of(name, groups, rate):
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=rate, weight_decay=0.01)


def train(name, method, base=None, seed=0, on="test", sparsity=0.9, settings=None, make=None):
    """Zeros of the pruned weights and accuracy after one training; ``make`` makes another method's step."""
    case = NETWORKS[name]()
    base = base or ("sgd" if name == "photos" else "adamw")
    x, y, tx, ty = case.data()
    if on == "validation":
        fifth = torch.arange(len(x)) % 5 == 4
        x, y, tx, ty = x[~fifth], y[~fifth], x[fifth], y[fifth]
    torch.manual_seed(seed)
    model = case.network(seed)
    groups = prunable_groups(model, skip=case.skip)
    weights, steps = groups[0]["params"], case.epochs * -(-len(x) // case.batch)
    own = optimizer_of(base, groups, case.rate)
    settings = settings or {}
    if method == "target":
        own = Directional(own, target=Target(sparsity, steps=steps, **settings))
    if method == "magnitude":
        make = partial(rivals.GradualMagnitude, end=0.8, every=1)
    schedule = {"cosine": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps), "constant": None}.get(
        case.schedule, partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=steps)
    )
    scheduler = schedule(own) if schedule else None
    trained = make(weights, own, steps, sparsity=sparsity, **settings) if make else own
    torch.manual_seed(seed)
    model.train()
    for _ in range(case.epochs):
        for batch in torch.randperm(len(x)).split(case.batch):
            own.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            trained.step()
            if scheduler:
                scheduler.step()
    model.eval()
    with torch.no_grad():
        outputs = model(tx)
    zeros = sum((w == 0).sum().item() for w in weights) / sum(w.numel() for w in weights)
    return {
        "zeros": 100 * zeros,
        "accuracy": (outputs.argmax(1) == ty).float().mean().item(),
        "loss": cross_entropy(outputs, ty).item(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=("dense", "magnitude", "target"))
    parser.add_argument("--base", choices=("adamw", "sgd"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--on", choices=("test", "validation"), default="test")
    parser.add_argument("--settings", type=json.loads, default={}, help="of the target, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"torch {torch.__version__}, python {platform.python_version()}, on {args.on}, seeds {args.seeds}")
    for name in args.networks:
        for method in args.methods or ("dense", "magnitude", "target"):
            settings = args.settings if method == "target" else {}
            runs = [train(name, method, args.base, seed, args.on, args.sparsity, settings) for seed in args.seeds]
            mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
            print(f"{name:9} {method:9} zeros {mean['zeros']:7.3f} %  accuracy {mean['accuracy']:.4f}", end="  ")
            print(f"loss {mean['loss']:.4f}  {[round(run['accuracy'], 3) for run in runs]}", flush=True)


if __name__ == "__main__":
    main()
