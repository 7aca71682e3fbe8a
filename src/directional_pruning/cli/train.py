"""Verbs that make a run: ``train``, ``recipes``, ``report``."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from itertools import count, product
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .app import RUN, app, stop
from .tables import show_comparison, train_table

if TYPE_CHECKING:
    from ..training import Recipe

__all__ = ["recipes", "report", "train"]

_NAMES = {"sgd": "dense twin", "grda": "sparse"}
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
        float | None, typer.Option(help="Share of a label spread over all classes.", rich_help_panel=_LEARNING)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Another network: vgg16, torchvision:NAME, timm:NAME, ...", rich_help_panel=_LEARNING),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder or archive of the data: see the README.", rich_help_panel=_DATA)
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Of other data.", rich_help_panel=_DATA)] = None,
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
        Path | None, typer.Option(help="New folder for the run [dim]\\[default: runs/RECIPE-seedN][/dim].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run or a sweep that was stopped, exactly there.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the run's folder.")] = False,
) -> None:
    """Train a dense network and its sparse twin, compare them and write a report.

    Both start from the same weights and see the same batches: one under the recipe's optimizer, one under the same
    optimizer made to prune as it goes.

    Options not given are those of the recipe. Ctrl-C is safe: go on with --resume. Under torchrun (torchrun
    --nproc-per-node 2 -m directional_pruning train ...) the processes train each network together.
    """
    from ..report import comparison_rows, write_comparison, write_report
    from ..training import (
        NonFiniteError,
        join_processes,
        load_run,
        pick_device,
        prepare_cpu,
        sweep_runs,
        train_run,
        train_sweep,
    )

    single = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "momentum": momentum, "weight_decay": weight_decay}
    single |= {"label_smoothing": label_smoothing, "model": model, "data": data and str(data.resolve())}
    single |= {"num_classes": num_classes, "samples": samples, "paper_protocol": paper_protocol, "workers": workers}
    single |= {"precision": precision, "compile": compile, "accumulate": accumulate, "parallel": parallel}
    single = {name: value for name, value in single.items() if value is not None}
    several = {name: values for name, values in {"seed": seed, "c": c, "mu": mu}.items() if values}
    if resume is not None:
        if recipe or single or several or paper_settings or out or device != "auto":
            stop("--resume goes on with the run as it was configured: give nothing else but --jobs and --quiet", 2)
        variants = [load_run(run) for run in sweep_runs(resume)]
        variants, place = [each for each, _ in variants], variants[0][1]
    else:
        try:
            variants, place = _variants(recipe, single, several, paper_settings), pick_device(device)
        except ValueError as error:
            stop(str(error), 2)
    chosen = variants[0]
    prepare_cpu(chosen.threads)
    processes = join_processes(place)
    if processes.size > 1 and (len(variants) > 1 or jobs > 1):
        stop("under torchrun all processes train one run together: no sweep and no --jobs", 2)
    if chosen.batch_size % processes.size:
        stop(f"invalid batch_size: {chosen.batch_size} (must be a multiple of the {processes.size} processes)", 2)
    if tensorboard and find_spec("tensorboard") is None:
        stop("TensorBoard events need its package: pip install 'directional-pruning[tensorboard]'", 2)
    try:
        # A mistake is better found before there is a folder.
        splits = chosen.splits(processes.own(place))
        chosen.check(splits)
    except ValueError as error:
        stop(str(error), 2)
    folder = resume or processes.share(_create(out, variants, place) if processes.first else None)
    runs = sweep_runs(folder)
    screen = Console(quiet=quiet or not processes.first)
    go_on = f"dirprune train --resume {quote(str(folder))}"
    try:
        if len(runs) > 1 or jobs > 1:
            with _progress(screen, runs, chosen.epochs) as on_epoch:
                diverged = train_sweep(runs, splits, jobs=jobs, on_epoch=on_epoch, tensorboard=tensorboard)
            for run in runs:
                write_report(run)
            if len(runs) > 1:
                page = write_comparison([folder], folder / "comparison.html")
                show_comparison(screen, comparison_rows([folder]))
                print(folder if quiet else f"comparison: {page}")
            for run, what in diverged.items():
                print(f"{run}: diverged, {what}")
            if diverged:
                stop(f"{len(diverged)} of {len(runs)} runs diverged; try a smaller --lr", 1)
            if len(runs) > 1:
                return
        with _progress(screen, runs, chosen.epochs) as on_epoch:
            summary = train_run(
                folder,
                on_epoch=lambda network, record: on_epoch(folder, network, record),
                splits=splits,
                processes=processes,
                tensorboard=tensorboard,
            )
    except NonFiniteError as error:
        if processes.first:
            stop(f"training diverged, {error}; the run so far: {write_report(folder)}; try a smaller --lr", 1)
        stop("", 1)
    except KeyboardInterrupt:
        stop(f"stopped; go on with: {go_on}" if processes.first else "", 130)
    if processes.first:
        page = write_report(folder)
        screen.print(train_table(summary, chosen))
        # Not by Rich, which would read markup into a folder's name.
        print(folder if quiet else f"report: {page}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Show all settings of this one.")] = None,
) -> None:
    """List what can be trained, or show the settings of one recipe."""
    from ..training import RECIPES

    if name is not None:
        try:
            (recipe,) = _variants(name, {}, {}, False)
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


def _variants(
    name: str | None, single: dict[str, Any], several: dict[str, list[Any]], paper_settings: bool
) -> list["Recipe"]:
    """The recipe of this name with the flags' values in place of its own, once for every combination of several."""
    from ..training import RECIPES

    if name not in RECIPES:
        problem = "which recipe?" if name is None else f"unknown recipe: {name}"
        raise ValueError(f"{problem} (there is: {', '.join(RECIPES)})")
    base = replace(RECIPES[name](), **single)
    if paper_settings and (several.keys() & {"c", "mu"} or not base.settings):
        raise ValueError(
            f"invalid --paper-settings: {name} has none"
            if not base.settings
            else "--paper-settings are all pairs of c and mu: give neither"
        )
    if paper_settings:
        pairs = base.settings
    else:
        pairs = tuple(product(several.get("c", [base.c]), several.get("mu", [base.mu])))
    seeds = several.get("seed", [base.seed])
    chosen = dict.fromkeys(product(seeds, pairs))  # each once
    return [replace(base, seed=seed, c=c, mu=mu) for seed, (c, mu) in chosen]


def _create(out: Path | None, variants: Sequence["Recipe"], device: Any) -> Path:
    """Make the folder of a run or a sweep; that of a run that torchrun starts again is there already."""
    from ..training import create_run, create_sweep

    first = variants[0]
    name = f"{first.name}-seed{first.seed}" if len(variants) == 1 else f"{first.name}-sweep"
    names = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in count(1))
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
        last = out
        for folder in names:
            if out or not folder.exists():
                break
            last = folder
        if last is not None and last.exists():
            return last
    folder = out or next(name for name in names if not name.exists())
    try:
        if len(variants) == 1:
            create_run(folder, first, device)
        else:
            create_sweep(folder, variants, device)
    except FileExistsError:
        stop(f"{folder} exists; give another --out, or go on with --resume {quote(str(folder))}", 2)
    return folder


@contextmanager
def _progress(
    screen: Console, runs: Sequence[Path], epochs: int
) -> Iterator[Callable[[Path, str, dict[str, Any]], None]]:
    """A bar for each network with loss, accuracy, zeros and the time that remains."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]} acc {task.fields[accuracy]} zeros {task.fields[zeros]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen) as bars:
        tasks = {
            (run, network): bars.add_task(
                name if len(runs) == 1 else f"{run.name} {name}",
                total=epochs,
                start=False,
                loss="-",
                accuracy="-",
                zeros="-",
            )
            for run in runs
            for network, name in _NAMES.items()
            if not (run / network).is_symlink()
        }

        def on_epoch(run: Path, network: str, record: dict[str, Any]) -> None:
            if (task := tasks.get((run, network))) is None:  # a twin that another run shows
                return
            bars.start_task(task)
            bars.update(
                task,
                completed=record["epoch"],
                loss=f"{record['train_loss']:.4f}",
                accuracy=f"{record['validation_accuracy']:.1%}",
                zeros=f"{record['sparsity_all']:.1%}",
            )

        yield on_epoch
