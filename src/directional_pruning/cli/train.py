"""The verb ``train``."""

from pathlib import Path
from typing import Annotated

import typer

from . import flags
from .app import app
from .training import start_training, train_and_report

__all__ = ["train"]


@app.command()
def train(
    recipe: flags.RecipeName = None,
    target: Annotated[
        list[float] | None,
        flags.pruning(
            help="Wanted share of zeros, such as 0.95, in place of --c and --mu. It is of the weights that are pruned, "
            "without those that the recipe spares, such as biases; the table at the end has both."
        ),
    ] = None,
    c: Annotated[
        list[float] | None, flags.pruning(help="Strength of pruning: more gives more zeros; 0 is none.")
    ] = None,
    mu: Annotated[
        list[float] | None,
        flags.pruning(
            help="Growth of pruning over time, in (0, 1]: more, later, sparser. Several values of --target, --c, --mu "
            "or --seed, as in --target 0.9 0.95, are a sweep: one run each, one table at the end."
        ),
    ] = None,
    paper_settings: Annotated[
        bool, flags.pruning("--paper-settings", help="All settings of the paper, a sweep.")
    ] = False,
    seed: flags.Seeds = None,
    epochs: flags.Epochs = None,
    lr: flags.Rate = None,
    batch_size: flags.BatchSize = None,
    momentum: flags.Momentum = None,
    weight_decay: flags.WeightDecay = None,
    label_smoothing: flags.LabelSmoothing = None,
    model: flags.Model = None,
    data: flags.Data = None,
    num_classes: flags.Classes = None,
    samples: flags.Samples = None,
    paper_protocol: Annotated[
        bool | None,
        flags.data(
            "--paper-protocol",
            help="Train on all training data and watch the test set, as the paper did; else some training data are "
            "held out to watch, and the test set is used once.",
        ),
    ] = None,
    workers: flags.Workers = None,
    device: flags.Device = "auto",
    precision: flags.Precision = None,
    compile: flags.Compile = None,  # noqa: A002 (the flag is called so)
    accumulate: flags.Accumulate = None,
    parallel: Annotated[str | None, flags.machine(help="Under torchrun: ddp, or fsdp (sharded weights).")] = None,
    jobs: flags.Jobs = 1,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the run [dim]\\[default: runs/RECIPE-seedN, -2, -3, ...][/dim].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run or a sweep that was stopped, exactly there.")
    ] = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = None,
    quiet: flags.Quiet = False,
) -> None:
    """Train a dense baseline and a sparse network, compare them and write a report.

    Both start from the same weights and see the same batches: one under the recipe's optimizer, one under the same
    optimizer made to prune as it goes.

    By c the zeros are what training gives; --target asks for a share: dirprune train digits --target 0.95.

    Options not given are those of the recipe. Ctrl-C and SIGTERM are safe: go on with --resume. Under torchrun
    (torchrun --nproc-per-node 2 -m directional_pruning train ...) the processes train each network together.
    """
    learning = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "momentum": momentum, "model": model}
    learning |= {"weight_decay": weight_decay, "label_smoothing": label_smoothing, "tensorboard": tensorboard}
    images = {"data": data and str(data.resolve()), "num_classes": num_classes, "samples": samples}
    images |= {"paper_protocol": paper_protocol, "workers": workers}
    machine = {"precision": precision, "compile": compile, "accumulate": accumulate, "parallel": parallel}
    values = {name: value for name, value in (learning | images | machine).items() if value is not None}
    several = {name: numbers for name, numbers in {"seed": seed, "c": c, "mu": mu, "target": target}.items() if numbers}
    start = start_training(
        recipe, values, several, paper_settings=paper_settings, device=device, jobs=jobs, out=out, resume=resume
    )
    train_and_report(start, jobs=jobs, quiet=quiet)
