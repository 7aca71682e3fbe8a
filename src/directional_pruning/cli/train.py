"""Verbs that make a run: ``train``, ``recipes``, ``report``."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.console import Console

from .app import RUN, app, stop
from .progress import training_progress
from .tables import show_comparison, train_table

__all__ = ["recipes", "report", "train"]

_PRUNING, _LEARNING, _DATA, _MACHINE = "Pruning", "Training", "Data", "Machine"


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="See dirprune recipes.")] = None,
    c: Annotated[
        list[float] | None,
        typer.Option(help="Strength of pruning: more gives more zeros; 0 is none.", rich_help_panel=_PRUNING),
    ] = None,
    mu: Annotated[
        list[float] | None,
        typer.Option(
            help="Growth of pruning over time, in (0, 1]: more, later, sparser. Several values of --c, --mu or --seed, "
            "as in --mu 0.51 0.6, are a sweep: one run each, one table at the end.",
            rich_help_panel=_PRUNING,
        ),
    ] = None,
    paper_settings: Annotated[
        bool, typer.Option("--paper-settings", help="All settings of the paper, a sweep.", rich_help_panel=_PRUNING)
    ] = False,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed", "--seeds", help="Seed of the initial weights and of the batches.", rich_help_panel=_LEARNING
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", rich_help_panel=_LEARNING)] = None,
    lr: Annotated[float | None, typer.Option(help="Rate at the start.", rich_help_panel=_LEARNING)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per step, of all processes.", rich_help_panel=_LEARNING)
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD and gRDA.", rich_help_panel=_LEARNING)] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the weights.", rich_help_panel=_LEARNING)] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(help="Share of each label that is spread over all classes, in [0, 1).", rich_help_panel=_LEARNING),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Another network: vgg16, vgg16_bn, wrn28x10, torchvision:NAME, timm:NAME.", rich_help_panel=_LEARNING
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder or archive of the data: see docs/experiments.md.", rich_help_panel=_DATA)
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Classes of other data.", rich_help_panel=_DATA)] = None,
    samples: Annotated[int | None, typer.Option(help="Train on so many only.", rich_help_panel=_DATA)] = None,
    paper_protocol: Annotated[
        bool | None,
        typer.Option(
            "--paper-protocol",
            help="Train on all training data and watch the test set, as the paper did; else some training data are "
            "held out to watch, and the test set is used once.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode photographs.", rich_help_panel=_DATA)
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, mps, or auto: the fastest there is.", rich_help_panel=_MACHINE)
    ] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16, or auto: bfloat16 on CUDA.", rich_help_panel=_MACHINE)
    ] = None,
    compile: Annotated[  # noqa: A002 (the flag is called so)
        bool | None, typer.Option("--compile", help="Compile the network.", rich_help_panel=_MACHINE)
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts of a batch, one after the other.", rich_help_panel=_MACHINE)
    ] = None,
    parallel: Annotated[
        str | None, typer.Option(help="Under torchrun: ddp, or fsdp (sharded weights).", rich_help_panel=_MACHINE)
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Networks trained side by side.", rich_help_panel=_MACHINE)
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the run [dim]\\[default: runs/RECIPE-seedN, -2, -3, ...][/dim].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run or a sweep that was stopped, exactly there.")
    ] = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the run's folder.")] = False,
) -> None:
    """Train a dense network and its sparse twin, compare them and write a report.

    Both start from the same weights and see the same batches: one under the recipe's optimizer, one under the same
    optimizer made to prune as it goes.

    Options not given are those of the recipe. Ctrl-C is safe: go on with --resume. Under torchrun (torchrun
    --nproc-per-node 2 -m directional_pruning train ...) the processes train each network together.
    """
    given = locals()
    from ..report import comparison_rows, write_comparison, write_report
    from ..runs import RECIPES, create_folder, load_run, move_run, prepare_torch, sweep_runs, train_sweep, variants
    from ..tensors import pick_device
    from ..training import join_processes

    # A setting of a recipe has a flag of its name; of these three, several.
    settings = RECIPES["digits"]().hyperparameters().keys() - {"seed", "c", "mu"}
    values = {name: given[name] for name in settings if given[name] is not None}
    if data is not None:
        values["data"] = str(data.resolve())
    several = {name: each for name, each in {"seed": seed, "c": c, "mu": mu}.items() if each}
    if resume and (recipe or values.keys() - {"data", "workers"} or several or paper_settings or out):
        also = "--data, --workers, --device, --jobs and --quiet"
        stop(f"--resume goes on with the run as it was configured: give nothing else but {also}", 2)
    if tensorboard and find_spec("tensorboard") is None:
        stop("TensorBoard events need its package: pip install 'directional-pruning[tensorboard]'", 2)
    try:
        if resume:
            loaded = [load_run(run) for run in sweep_runs(resume)]
            wanted = [replace(recipe, **values) for recipe, _ in loaded]
            place = loaded[0][1] if device == "auto" else pick_device(device)
        else:
            wanted, place = variants(recipe, values, several, paper_settings=paper_settings), pick_device(device)
        chosen = wanted[0]
        prepare_torch(chosen.threads)
        processes = join_processes(place)
        if processes.size > 1 and (len(wanted) > 1 or jobs > 1):
            raise ValueError("under torchrun all processes train one run together: no sweep and no --jobs")
        if chosen.batch_size % processes.size:
            size = processes.size
            raise ValueError(f"invalid batch_size: {chosen.batch_size} (must be a multiple of the {size} processes)")
        # A mistake is better found before there is a folder; and the first process downloads, for all.
        splits = chosen.splits(processes.local_device(place)) if processes.first else None
        processes.barrier()
        splits = splits or chosen.splits(processes.local_device(place))
        chosen.check(splits)
        for run in sweep_runs(resume) if resume and (values or device != "auto") and processes.first else ():
            move_run(run, place, **values)
        folder = resume or processes.broadcast(create_folder(out, wanted, place, splits) if processes.first else None)
    except FileExistsError as error:
        there = error.filename
        stop(f"{there} exists; give another --out, or go on with --resume {quote(str(there))}", 2)
    except ValueError as error:
        stop(str(error), 2)
    runs = sweep_runs(folder)
    screen = Console(quiet=quiet or not processes.first)
    try:
        with training_progress(screen, runs, chosen.epochs) as progress:
            diverged = train_sweep(runs, splits, jobs=jobs, progress=progress, processes=processes)
    except (KeyboardInterrupt, ChildProcessError) as error:
        what = f"{str(error) or 'stopped'}; go on with: dirprune train --resume {quote(str(folder))}"
        stop(what if processes.first else "", 130 if isinstance(error, KeyboardInterrupt) else 1)
    if not processes.first:
        stop("", 0)  # a failure here would make torchrun end the first one while it writes
    pages = {run: write_report(run) for run in runs}
    # Folders not by Rich, which would read markup into their names.
    if len(runs) > 1:
        page = write_comparison([folder], folder / "comparison.html")
        show_comparison(screen, comparison_rows([folder]))
        print(folder if quiet else f"comparison: {page}")
    elif not diverged:
        screen.print(train_table(folder))
        for flag in comparison_rows([folder])[0].flags:
            screen.print(f"beside the paper: {flag}", markup=False, soft_wrap=True)
        print(folder if quiet else f"report: {pages[folder]}")
    if diverged:
        what = "; ".join(f"{error}; the run so far: {pages[run]}" for run, error in diverged.items())
        stop(f"training diverged, {what}; try a smaller --lr", 1)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Show all settings of this one.")] = None,
) -> None:
    """List what can be trained, or show the settings of one recipe."""
    from ..runs import RECIPES, variants

    if name is not None:
        try:
            (recipe,) = variants(name)
        except ValueError as error:
            stop(str(error), 2)
        for key, value in (recipe.hyperparameters() | recipe.describe()).items():
            print(f"{key} = {value}")
        return
    for make in RECIPES.values():
        print(f"{make().name}: {make().summary}")


@app.command()
def report(run: RUN) -> None:
    """Draw the pictures and the page of a run anew, also of one under way."""
    from ..report import write_report

    print(write_report(run))
