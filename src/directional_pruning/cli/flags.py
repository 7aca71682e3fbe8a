"""The flags that ``train`` and ``tune`` share: how to train, on which data, on which machine."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

pruning, training, data, machine = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Pruning", "Training", "Data", "Machine")
)

RecipeName = Annotated[str | None, typer.Argument(metavar="RECIPE", help="See dirprune recipes.")]
Seeds = Annotated[
    list[int] | None, training("--seed", "--seeds", help="Seed of the initial weights and of the batches.")
]
Epochs = Annotated[int | None, training(help="Passes over the data.")]
Rate = Annotated[float | None, training(help="Rate at the start.")]
BatchSize = Annotated[int | None, training(help="Samples per step, of all processes.")]
Momentum = Annotated[float | None, training(help="Of SGD and gRDA.")]
WeightDecay = Annotated[float | None, training(help="Of the weights.")]
LabelSmoothing = Annotated[
    float | None, training(help="Share of each label that is spread over all classes, in [0, 1).")
]
Model = Annotated[str | None, training(help="Another network: vgg16, vgg16_bn, wrn28x10, torchvision:NAME, timm:NAME.")]
Data = Annotated[Path | None, data(help="Folder or archive of the data: see docs/experiments.md.")]
Classes = Annotated[int | None, data(help="Classes of other data.")]
Samples = Annotated[int | None, data(help="Train on so many only.")]
Workers = Annotated[int | None, data(help="Processes that decode photographs.")]
Device = Annotated[str, machine(help="cpu, cuda, mps, or auto: the fastest there is.")]
Precision = Annotated[str | None, machine(help="float32, bfloat16, or auto: bfloat16 on CUDA.")]
Compile = Annotated[bool | None, machine("--compile", help="Compile the network.")]
Accumulate = Annotated[int | None, machine(help="Parts of a batch, one after the other.")]
Jobs = Annotated[int, machine("--jobs", "-j", min=1, help="Networks trained side by side.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the folder.")]
