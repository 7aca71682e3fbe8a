"""The verb ``train``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .training import start_training, train_and_report

__all__ = ["train"]

_pruning, _training, _data, _machine = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Pruning", "Training", "Data", "Machine")
)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="See dirprune recipes.")] = None,
    target: Annotated[
        list[float] | None,
        _pruning(
            help="Wanted share of zeros, such as 0.95, in place of --c and --mu. It is of the weights that are pruned, "
            "without those that the recipe spares, such as biases; the table at the end has both."
        ),
    ] = None,
    c: Annotated[list[float] | None, _pruning(help="Strength of pruning: more gives more zeros; 0 is none.")] = None,
    mu: Annotated[
        list[float] | None,
        _pruning(
            help="Growth of pruning over time, in (0, 1]: more, later, sparser. Several values of --target, --c, --mu "
            "or --seed, as in --target 0.9 0.95, are a sweep: one run each, one table at the end."
        ),
    ] = None,
    paper_settings: Annotated[bool, _pruning("--paper-settings", help="All settings of the paper, a sweep.")] = False,
    seed: Annotated[
        list[int] | None, _training("--seed", "--seeds", help="Seed of the initial weights and of the batches.")
    ] = None,
    epochs: Annotated[int | None, _training(help="Passes over the data.")] = None,
    lr: Annotated[float | None, _training(help="Rate at the start.")] = None,
    batch_size: Annotated[int | None, _training(help="Samples per step, of all processes.")] = None,
    momentum: Annotated[float | None, _training(help="Of SGD and gRDA.")] = None,
    weight_decay: Annotated[float | None, _training(help="Of the weights.")] = None,
    label_smoothing: Annotated[
        float | None, _training(help="Share of each label that is spread over all classes, in [0, 1).")
    ] = None,
    model: Annotated[
        str | None, _training(help="Another network: vgg16, vgg16_bn, wrn28x10, torchvision:NAME, timm:NAME.")
    ] = None,
    data: Annotated[Path | None, _data(help="Folder or archive of the data: see docs/experiments.md.")] = None,
    num_classes: Annotated[int | None, _data(help="Classes of other data.")] = None,
    samples: Annotated[int | None, _data(help="Train on so many only.")] = None,
    paper_protocol: Annotated[
        bool | None,
        _data(
            "--paper-protocol",
            help="Train on all training data and watch the test set, as the paper did; else some training data are "
            "held out to watch, and the test set is used once.",
        ),
    ] = None,
    workers: Annotated[int | None, _data(help="Processes that decode photographs.")] = None,
    device: Annotated[str, _machine(help="cpu, cuda, mps, or auto: the fastest there is.")] = "auto",
    precision: Annotated[str | None, _machine(help="float32, bfloat16, or auto: bfloat16 on CUDA.")] = None,
    compile: Annotated[  # noqa: A002 (the flag is called so)
        bool | None, _machine("--compile", help="Compile the network.")
    ] = None,
    accumulate: Annotated[int | None, _machine(help="Parts of a batch, one after the other.")] = None,
    parallel: Annotated[str | None, _machine(help="Under torchrun: ddp, or fsdp (sharded weights).")] = None,
    jobs: Annotated[int, _machine("--jobs", "-j", min=1, help="Networks trained side by side.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the run [dim]\\[default: runs/RECIPE-seedN, -2, -3, ...][/dim].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run or a sweep that was stopped, exactly there.")
    ] = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the run's folder.")] = False,
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
