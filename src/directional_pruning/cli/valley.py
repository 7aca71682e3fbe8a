"""Verbs that look at the valley: ``curve``, ``plane``, ``curvature``, ``theory``."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import RUN, app, stop

__all__ = ["curvature", "curve", "plane", "theory"]

# Two networks: of a run, or from elsewhere.
_RUN_OR_NONE = Annotated[Path | None, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
_BETWEEN = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="A B", help="Instead of a run: two checkpoints (.safetensors or torch's), one network."),
]
_MODEL = Annotated[str | None, typer.Option(help="With --between: package.module:function -> the network.")]
_DATA = Annotated[
    str | None, typer.Option(help='With --between: package.module:function -> {"train": batches, "test": batches}.')
]
_LOSS = Annotated[str, typer.Option(help="With --between: the mean loss of (outputs, targets).")]
_OUT = Annotated[Path | None, typer.Option(help="With --between: folder for the results.")]


@app.command()
def curve(
    run: _RUN_OR_NONE = None,
    between: _BETWEEN = None,
    model: _MODEL = None,
    data: _DATA = None,
    loss: _LOSS = "torch.nn.functional:cross_entropy",
    out: _OUT = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training data to train the bend.")] = 30,
    lr: Annotated[float, typer.Option(help="Learning rate of the bend at the start.")] = 0.05,
    points: Annotated[int, typer.Option(help="Points at which the curve is measured.")] = 61,
    tolerance: Annotated[float, typer.Option(help="Rise of the loss above both ends that is still one valley.")] = 0.01,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in mixed precision with bfloat16.")] = False,
) -> None:
    """Are two networks in one valley? Train a curve between them, measure the loss along it, say so and draw it.

    The networks are the dense twin and the sparse one of a run, or any two checkpoints of one architecture.

    Ctrl-C is safe: the same command goes on.
    """
    from ..studies import examine_curve

    folder = _folder_of("curve", run, between, model, data, loss, out)
    settings = {"epochs": epochs, "lr": lr, "points": points, "tolerance": tolerance, "bf16": bf16}
    _examine(folder, partial(examine_curve, **settings))


@app.command()
def plane(
    run: RUN,
    size: Annotated[int, typer.Option(help="Points along each side of the grid.")] = 29,
    margin: Annotated[float, typer.Option(help="What lies around the networks, as a share of their extent.")] = 0.2,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in mixed precision with bfloat16.")] = False,
) -> None:
    """Measure and draw the loss on the plane through both networks and the bend of their curve.

    Needs the curve first. Ctrl-C is safe: the same command goes on.
    """
    from ..studies import examine_plane

    _examine(run, partial(examine_plane, size=size, margin=margin, bf16=bf16))


@app.command()
def curvature(
    run: _RUN_OR_NONE = None,
    between: _BETWEEN = None,
    model: _MODEL = None,
    data: _DATA = None,
    loss: _LOSS = "torch.nn.functional:cross_entropy",
    out: _OUT = None,
    k: Annotated[int, typer.Option("--k", help="How many of the steepest directions.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the first vector of Lanczos; the result does not depend on it.")] = 0,
) -> None:
    """Do two networks differ in flat directions? Find the steepest at the first, and the share of the way in them.

    The networks are the dense twin and the sparse one of a run, or any two checkpoints of one architecture.

    Ctrl-C is safe: the same command goes on.
    """
    from ..studies import examine_curvature

    _examine(_folder_of("curvature", run, between, model, data, loss, out), partial(examine_curvature, k=k, seed=seed))


@app.command()
def theory(
    seed: Annotated[int, typer.Option(help="Of the problems, the first weights and the batches.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/theory"),
) -> None:
    """See gRDA follow its theory, and where the one-shot formula ends: on quadratics, then on a small digits network.

    About a minute. Ctrl-C is safe: the same command goes on with the part that was not finished.
    """
    import torch
    from rich.progress import Progress

    from ..report import write_theory
    from ..studies import run_theory

    torch.set_flush_denormal(True)
    torch.set_num_threads(1)  # the problems are so small that threads would only wait for each other
    try:
        with Progress() as bars:
            tasks: dict[str, Any] = {}

            def on_progress(stage: str, done: float) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=1)
                bars.update(tasks[stage], completed=done)

            lines = run_theory(out, seed, on_progress)
    except ValueError as error:
        stop(str(error), 2)
    except KeyboardInterrupt:
        stop("stopped; the same command goes on", 130)
    pictures = write_theory(out)
    print(*lines, sep="\n")
    print("pictures:", *pictures)


def _folder_of(
    verb: str,
    run: Path | None,
    between: tuple[Path, Path] | None,
    model: str | None,
    data: str | None,
    loss: str,
    out: Path | None,
) -> Path:
    """The folder of a run, or that made for two checkpoints from elsewhere."""
    from ..studies import create_pair

    if between is None:
        if run is None or model or data or out:
            stop("give a RUN, or --between A B with --model, --data and --out", 2)
        return run
    if run or not (model and data and out):
        stop("--between A B needs --model, --data and --out, and no RUN", 2)
    try:
        create_pair(out, *between, model=model, data=data, loss=loss, verb=verb)
    except ValueError as error:
        stop(str(error), 2)
    return out


def _examine(folder: Path, examine: Callable[..., str]) -> None:
    """Load the two networks of a folder, look at them under a progress bar, say what was seen and draw it."""
    import torch
    from rich.progress import Progress

    from ..report import write_report
    from ..studies import load_pair

    # Denormal numbers, which a decaying network is full of, slow a CPU down several times.
    torch.set_flush_denormal(True)
    try:
        pair = load_pair(folder)
        torch.set_num_threads(pair.threads or torch.get_num_threads())
        with Progress() as bars:
            tasks: dict[str, Any] = {}

            def on_progress(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage)
                bars.update(tasks[stage], completed=done, total=total)

            words = examine(folder, pair, on_progress=on_progress)
    except (ValueError, RuntimeError) as error:
        stop(str(error), 2)
    except ArithmeticError as error:
        stop(str(error), 1)
    except KeyboardInterrupt:
        stop("stopped; the same command goes on", 130)
    page = write_report(folder)
    print(words)
    print(f"report: {page}")
