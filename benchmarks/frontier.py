"""Accuracy against zeros: our optimizers and their rivals on the same networks, batches, budgets and effort of tuning.

    python benchmarks/frontier.py tune  [--task cifar16] [--methods target feather] [--data FOLDER] [--processes 2]
    python benchmarks/frontier.py final [--task cifar16] [--epochs 5 10] [--seeds 0 1 2]
    python benchmarks/frontier.py show  [--write] [--picture docs/frontier.svg]
    python benchmarks/frontier.py run '{"task": "cifar16", "method": "target", "sparsity": 0.98, "on": "validation"}'

``tune`` trains each method with every setting of its grid, at the most zeros, one seed, on the training data without a
held-out part, and measures on that part. ``final`` takes the best setting of each and trains it on all training data
with three seeds at every level of zeros; the test data are used here alone. Every run is a line of
``benchmarks/results/frontier.jsonl``, and none is made twice: stop at any moment and call again.

Tasks:

- ``cifar16``: CIFAR-10 averaged to 16 x 16 pixels, a VGG-like network with four convolutions and batch norm (241,760
  weights to prune), SGD with momentum 0.9, weight decay 5e-4, batches of 125, rate with 15 % warm-up, then a cosine.
- ``chars``: the characters of the package, a small transformer (AdamW), 50 updates an epoch.

Methods that have no target but a strength (our law with c, PAT, STR) are trained at several strengths; their accuracy
at a level of zeros lies on the straight line between the two runs next to it.
"""

import argparse
import datetime
import json
import math
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.append(str(Path(__file__).parent))
import itertools

import rivals

from directional_pruning import Directional, Target
from directional_pruning.data import chars, cifar10
from directional_pruning.models import chars_net

RESULTS = Path(__file__).parent / "results" / "frontier.jsonl"
CUTS = {"hard": rivals.hard_cut, "power": rivals.power_cut, "root": rivals.root_cut}


class Cifar16:
    """CIFAR-10 at 16 x 16 pixels."""

    better, unit, batch, rate, decay, warm = "accuracy", "%", 125, 0.1, 5e-4, 0.15
    epochs, levels = 5, (0.9, 0.95, 0.98)

    def __init__(self, data, on):
        splits = cifar10(folder=data, validation=5000)
        parts = [splits.train, splits.validation, splits.test]
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (splits.train.mean, splits.train.std))
        images = [(F.avg_pool2d(part.images.float(), 2).round() / 255 - mean) / std for part in parts]
        labels = [part.labels for part in parts]
        if on == "test":
            self.images, self.labels = torch.cat(images[:2]), torch.cat(labels[:2])
            self.held_out = images[2], labels[2]
        else:
            self.images, self.labels = images[0], labels[0]
            self.held_out = images[1], labels[1]
        self.padded = F.pad(self.images, (2, 2, 2, 2), mode="reflect")

    @staticmethod
    def network(width=32):
        def block(inputs, outputs, stride=1):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
            )

        a, b, c = width, 2 * width, 4 * width
        model = nn.Sequential(
            *(block(3, a, 2), block(a, b), nn.MaxPool2d(2), block(b, c), block(c, c)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10)),
        )
        return model.to(memory_format=torch.channels_last)  # pyrefly: ignore

    @staticmethod
    def weights(model):
        return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    def updates(self):
        return math.ceil(len(self.labels) / self.batch)

    def batches(self, seed, epoch):
        """Shuffled batches, a pure function of seed and epoch: each half is moved by up to two pixels, one mirrored."""
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(self.labels), generator=generator)
        for chosen in order.split(self.batch):
            (a, b), (c, d) = torch.randint(0, 5, (2, 2), generator=generator).tolist()
            images, half = self.padded[chosen], len(chosen) // 2
            moved = [images[:half, :, a : a + 16, b : b + 16], images[half:, :, c : c + 16, d : d + 16].flip(3)]
            yield torch.cat(moved).contiguous(memory_format=torch.channels_last), self.labels[chosen]

    def measure(self, model):
        images, labels = self.held_out
        outputs = torch.cat([model(x.contiguous(memory_format=torch.channels_last)) for x in images.split(500)])
        right = (outputs.argmax(1) == labels).float().mean().item()
        return {"accuracy": round(100 * right, 2), "loss": round(F.cross_entropy(outputs, labels).item(), 4)}


class Characters:
    """The next character of Python's standard library."""

    better, unit, batch, rate, decay, warm = "loss", "nats", 16, 4e-3, 0.1, 2 / 30
    epochs, levels = 30, (0.8, 0.9, 0.95)

    def __init__(self, data, on):
        splits = chars()
        self.train = splits.train  # of the training text alone, also for the test: its validation part is small
        self.held_out = splits.test if on == "test" else splits.validation

    @staticmethod
    def network():
        return chars_net()

    @staticmethod
    def weights(model):
        return [p for name, p in model.named_parameters() if name.startswith("blocks") and p.dim() == 2]

    def updates(self):
        return math.ceil(len(self.train) / self.batch)

    def batches(self, seed, epoch):
        return self.train.batches(self.batch, shuffle_seed=1_000_003 * seed + epoch)

    def measure(self, model):
        losses = [
            (F.cross_entropy(model(x), y, reduction="sum").item(), y.numel()) for x, y in self.held_out.batches(50)
        ]
        return {"loss": round(sum(loss for loss, _ in losses) / sum(count for _, count in losses), 4)}


TASKS = {"cifar16": Cifar16, "chars": Characters}


@cache
def task_of(name, data, on):
    return TASKS[name](data, on)


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def adamw(groups, lr):
    return torch.optim.AdamW(groups, lr=lr)


BASES = {"sgd": sgd, "adamw": adamw}
DEFAULT_BASE = {"cifar16": "sgd", "chars": "adamw"}
STRENGTHS = ("law", "pat", "str")  # methods with a strength in place of a target


def prepare(spec, task, model, steps):
    """The step of the method, and the optimizers whose rates the schedule sets."""
    base, lr, method = BASES[spec["base"]], spec["lr"], spec["method"]
    settings = spec.get("settings", {})
    weights, decay = task.weights(model), spec.get("decay", task.decay)
    kept = {id(w) for w in weights}
    rest = [p for p in model.parameters() if id(p) not in kept]
    rest_decay = 0.0 if spec["base"] == "sgd" else decay
    if method in ("law", "target"):
        groups = [{"params": weights, "weight_decay": decay}, {"params": rest, "weight_decay": rest_decay, "c": 0.0}]
        if method == "law":
            optimizer = Directional(base(groups, lr), c=spec["strength"], mu=0.6, **settings)
        else:
            optimizer = Directional(base(groups, lr), target=Target(spec["sparsity"], steps=steps, **settings))
        return optimizer.step, [optimizer]
    others = base([{"params": rest, "weight_decay": rest_decay}], lr)
    if method == "str":
        made = partial(lambda latent: base([{"params": latent, "weight_decay": spec["strength"]}], lr))
        rival = rivals.SoftThresholdReparameterization(weights, made, steps, **settings)
    elif method == "pat":
        from torchao.prototype.pat.optim import PruneOptimizer

        group = {"params": weights, "weight_decay": decay, "reg_lambda": spec["strength"]}
        group |= {"prox_type": "ProxLasso", "group_type": "ElemGrouper"}
        rival = rivals.Method(weights, PruneOptimizer(base([group], lr), **settings), steps)
    else:
        own = base([{"params": weights, "weight_decay": decay}], lr)
        sparsity = {} if method in ("dense", "small") else {"sparsity": spec["sparsity"]}
        kinds = {
            "dense": rivals.Method,
            "small": rivals.Method,
            "magnitude": rivals.GradualMagnitude,
            "magnitude by layer": partial(rivals.GradualMagnitude, scope="layer"),
            "st-3": partial(rivals.StraightThrough, cut=rivals.rescaled_soft_cut, start=0.0),
            "feather": partial(
                rivals.StraightThrough,
                cut=rivals.root_cut(3),
                start=0.0,
                end=0.5,
                every=1,
                gradient_of_zeros=0.5 if spec.get("sparsity", 0) > 0.9 else 1.0,
            ),
            "straight": rivals.StraightThrough,
            "ac/dc": rivals.AcDc,
            "rigl": rivals.RigL,
        }
        if "cut" in settings:
            name, *power = settings["cut"] if isinstance(settings["cut"], list) else [settings["cut"]]
            settings = settings | {"cut": CUTS[name](*power) if power else CUTS[name]}
        rival = kinds[method](weights, own, steps, **sparsity, **settings)

    def step():
        rival.step()
        others.step()

    return step, [rival.optimizer, others]


def complete(spec):
    """The specification with every default in place."""
    task = TASKS[spec["task"]]
    own = {"base": DEFAULT_BASE[spec["task"]], "lr": task.rate, "epochs": task.epochs, "seed": 0, "on": "validation"}
    return own | spec


def train(spec, data=None):
    """Train one network; its specification, with what was measured."""
    spec = complete(spec)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    task = task_of(spec["task"], data, spec["on"])
    torch.manual_seed(spec["seed"])
    model = task.network(*([spec["width"]] if "width" in spec else []))
    model.train()
    steps, n = spec["epochs"] * task.updates(), 0
    step, optimizers = prepare(spec, task, model, steps)
    began = time.process_time()
    for epoch in range(spec["epochs"]):
        for inputs, targets in task.batches(spec["seed"], epoch):
            n += 1
            t = n / (steps + 1)
            factor = t / task.warm if t < task.warm else (1 + math.cos(math.pi * (t - task.warm) / (1 - task.warm))) / 2
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = spec["lr"] * factor
            loss = F.cross_entropy(model(inputs), targets)
            model.zero_grad()
            loss.backward()
            step()
    model.eval()
    weights = task.weights(model)
    with torch.no_grad():
        measured = task.measure(model)
    zeros = [(w == 0).sum().item() for w in weights]
    return (
        spec
        | measured
        | {
            "zeros": round(100 * sum(zeros) / sum(w.numel() for w in weights), 3),
            "by_layer": [round(100 * count / w.numel(), 1) for count, w in zip(zeros, weights, strict=True)],
            "cpu_seconds": round(time.process_time() - began, 1),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": processor(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
    )


def processor():
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


KEYS = ("task", "base", "method", "sparsity", "strength", "lr", "decay", "epochs", "seed", "on", "settings", "width")


def key(spec):
    """What tells one run from another."""
    return json.dumps({name: spec[name] for name in KEYS if name in spec}, sort_keys=True)


def records():
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def run_all(specs, data, processes):
    """Train what is not recorded yet, and record it."""
    done = {key(record) for record in records()}
    specs = [spec for spec in map(complete, specs) if key(spec) not in done]
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(train, spec, data) for spec in specs]
        for i, future in enumerate(as_completed(futures), 1):
            record = future.result()
            with RESULTS.open("a") as file:
                file.write(json.dumps(record) + "\n")
            better = TASKS[record["task"]].better
            print(f"{i}/{len(specs)}  {key(record)}  zeros {record['zeros']} %  {better} {record[better]}", flush=True)


# The settings that tuning tries, beside the rates 1 and 2 times the task's: two for each method.
TRIED = {
    "dense": [{}],
    "small": [{}],
    "magnitude": [{"end": 0.5}, {"end": 0.75}],
    "magnitude by layer": [{"end": 0.5}, {"end": 0.75}],
    "st-3": [{"end": 0.5}, {"end": 0.75}],
    "feather": [{"end": 0.5}, {"end": 0.75}],
    "ac/dc": [{"phase": 0.1}, {"phase": 0.2}],
    "rigl": [{"fraction": 0.3}, {"fraction": 0.5}],
    "str": [{"first": -6.0}, {"first": -5.0}],
    "pat": [{}],
    "law": [{"power": 1}, {"power": 4}],
    "target": [{"power": 8}, {}],
}
STRENGTHS_OF = {
    "cifar16": {"law": (0.04, 0.08, 0.16), "pat": (0.0015, 0.004, 0.01), "str": (1e-3, 2e-3, 4e-3)},
    "chars": {"law": (0.5, 1.0, 2.0, 4.0), "pat": (0.01, 0.03, 0.1, 0.3), "str": (0.1, 0.3, 1.0, 3.0)},
}


def small_width(task, model, density):
    """The width of the dense network that has as many weights as a sparse one of this density."""
    wanted = density * sum(w.numel() for w in task.weights(model))
    return min(range(2, 33), key=lambda width: abs(sum(w.numel() for w in task.weights(task.network(width))) - wanted))


def specs_of(task, method, level, lr, settings, **rest):
    """The runs that tell how good a method is at a level of zeros."""
    spec = {"task": task, "method": method, "lr": lr, **({"settings": settings} if settings else {}), **rest}
    if method in STRENGTHS_OF[task]:
        return [spec | {"strength": strength} for strength in STRENGTHS_OF[task][method]]
    if method == "small":
        return [spec | {"width": small_width(TASKS[task], TASKS[task].network(), 1 - level)}]
    return [spec] if method == "dense" else [spec | {"sparsity": level}]


def reached(specs, level):
    """The task's measure at a level of zeros, from recorded runs; None where there are none on both sides of it."""
    by_key = {key(record): record for record in records()}
    rows = [by_key[key(spec)] for spec in map(complete, specs) if key(spec) in by_key]
    if len(rows) < len(specs):
        return None
    better = TASKS[specs[0]["task"]].better
    if "strength" not in specs[0]:
        return rows[0][better]
    rows.sort(key=lambda row: row["zeros"])
    for low, high in itertools.pairwise(rows):
        if low["zeros"] <= 100 * level <= high["zeros"]:
            part = (100 * level - low["zeros"]) / max(high["zeros"] - low["zeros"], 1e-9)
            return low[better] + part * (high[better] - low[better])
    return None


def settings_tried(task, method):
    return [(factor * TASKS[task].rate, settings) for factor in (1, 2) for settings in TRIED[method]]


def best_setting(task, method) -> tuple[float, dict] | None:
    """Rate and settings with the best measure on the held-out part, at the most zeros; None before tuning."""
    sign = 1 if TASKS[task].better == "accuracy" else -1
    level = TASKS[task].levels[-1]
    best, value = None, None
    for lr, settings in settings_tried(task, method):
        new = reached(specs_of(task, method, level, lr, settings), level)
        if new is not None and (value is None or sign * new > sign * value):
            best, value = (lr, settings), new
    return best


def tune_specs(task, methods):
    level = TASKS[task].levels[-1]
    return [
        spec
        for method in methods
        for lr, settings in settings_tried(task, method)
        for spec in specs_of(task, method, level, lr, settings)
    ]


def final_specs(task, methods, epochs, seeds, levels):
    specs = []
    for method in methods:
        best = best_setting(task, method)
        if best is None:
            print(f"{method}: not tuned yet, left out", file=sys.stderr)
            continue
        for each, level, seed in ((e, x, s) for e in epochs for x in levels for s in seeds):
            specs += specs_of(task, method, level, *best, epochs=each, seed=seed, on="test")
    return list({key(complete(spec)): spec for spec in specs}.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "tune", "final", "show"))
    parser.add_argument("specs", nargs="*", type=json.loads, help="of run: JSON objects")
    parser.add_argument("--task", choices=TASKS, default="cifar16")
    parser.add_argument("--methods", nargs="+", choices=TRIED, default=list(TRIED), metavar="METHOD")
    parser.add_argument("--epochs", type=int, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--levels", type=float, nargs="+", help="shares of zeros")
    parser.add_argument("--data", help="folder of CIFAR-10; otherwise $DIRPRUNE_DATA, or it is downloaded")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--write", action="store_true", help="of show: keep the table as results/frontier_TASK.json")
    parser.add_argument("--picture", type=Path, help="of show: the file to draw into")
    args = parser.parse_args()
    task = TASKS[args.task]
    epochs, levels = args.epochs or [task.epochs], args.levels or task.levels
    if args.verb == "show":
        rows = list(table(args.task, args.methods, epochs, args.seeds, levels))
        for row in rows:
            print("  ".join(f"{cell:>22}" for cell in row))
        if args.write:
            write(args.task, rows, args.seeds)
        if args.picture:
            draw(args.picture, args.task, args.methods, epochs[0], args.seeds, levels)
        return
    plans = {"run": lambda: args.specs, "tune": lambda: tune_specs(args.task, args.methods)}
    plan = plans.get(args.verb, lambda: final_specs(args.task, args.methods, epochs, args.seeds, levels))
    run_all(plan(), args.data, args.processes)


def measured(task, method, epochs, seeds, level):
    """The test measure of every seed that was trained with the method's best setting; None before tuning."""
    best = best_setting(task, method)
    if best is None:
        return None
    rows = [reached(specs_of(task, method, level, *best, epochs=epochs, seed=s, on="test"), level) for s in seeds]
    return torch.tensor([row for row in rows if row is not None], dtype=torch.float64)


def table(task, methods, epochs, seeds, levels):
    """A row for each method: mean and standard deviation over the seeds at each level, on the test data."""
    yield ["method", "rate, settings", *(f"{100 * level:g} %, {e} epochs" for e in epochs for level in levels)]
    digits = 2 if TASKS[task].better == "accuracy" else 4
    for method in methods:
        best = best_setting(task, method)
        cells = [measured(task, method, e, seeds, level) for e in epochs for level in levels]
        if best is None or all(cell is None or len(cell) < len(seeds) for cell in cells):
            continue
        settings = ", ".join([f"{best[0]:g}", *(f"{name} {value:g}" for name, value in best[1].items())])
        texts = [
            f"{cell.mean():.{digits}f} ± {cell.std():.{digits}f}"
            if cell is not None and len(cell) == len(seeds)
            else ""
            for cell in cells
        ]
        yield [LABELS.get(method, method), settings, *texts]


LABELS = {"target": "our target", "law": "our law", "small": "dense, as many weights"}


def write(task, rows, seeds):
    """Keep the table with its evidence, as benchmarks/tables.py reads it."""
    runs = [record for record in records() if record["task"] == task]
    head, *body = rows
    names = [f"cell{i}" for i in range(len(head))]
    result = {
        "title": f"{TASKS[task].__doc__} Test {TASKS[task].better}, mean and standard deviation over the seeds",
        "command": [
            f"python benchmarks/frontier.py {verb} --task {task}" for verb in ("tune", "final", "show --write")
        ],
        "data": f"frontier.jsonl, {len(runs)} runs; settings chosen on held-out training data, test data used once",
        "seeds": seeds,
        "machine": "; ".join(sorted({record["processor"] for record in runs})) + ", one thread a run",
        "versions": {name: ", ".join(sorted({record[name] for record in runs})) for name in ("python", "torch")},
        "date": max(record["date"] for record in runs),
        "columns": [[title, f"{{{name}}}"] for title, name in zip(head, names, strict=True)],
        "rows": [dict(zip(names, row, strict=True)) for row in body],
    }
    path = RESULTS.parent / f"frontier_{task}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(path, task, methods, epochs, seeds, levels):
    """Draw the measure against the share of zeros: means with the standard deviation over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, method in enumerate(methods):
        rows = [measured(task, method, epochs, seeds, level) for level in levels]
        points = [(level, row) for level, row in zip(levels, rows, strict=True) if row is not None and len(row) > 1]
        if not points:
            continue
        means = torch.tensor([row.mean() for _, row in points])
        if method == "dense":
            axes.axhline(means[0].item(), color="#5f6973", linewidth=1, label="dense")
            continue
        ours = method == "target"
        axes.errorbar(
            [f"{100 * level:g} %" for level, _ in points],
            means,
            [row.std() for _, row in points],
            label=LABELS.get(method, method),
            color="#c75000" if ours else f"C{i}",
            linewidth=2.5 if ours else 1,
            marker="o" if ours else "os^vD<>p"[i % 8],
            markersize=4,
            capsize=2,
            zorder=3 if ours else 2,
        )
    axes.set_xlabel("zeros among the pruned weights")
    unit = TASKS[task].unit
    axes.set_ylabel(f"test {TASKS[task].better} ({unit}), mean and standard deviation of {len(seeds)} seeds")
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
