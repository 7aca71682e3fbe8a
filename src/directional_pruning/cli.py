"""The command ``dirprune``: thin verbs over the library. Heavy imports live in the functions, so help is instant."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from .files import CorruptFileError

try:
    import typer
    from rich.console import Console
    from typer.exceptions import TyperException
except ModuleNotFoundError as missing:
    raise SystemExit(f"dirprune needs {missing.name}: pip install 'directional-pruning[cli]'") from missing

if TYPE_CHECKING:
    from rich.table import Table

    from .training import Recipe

app = typer.Typer(
    help="Train a neural network once and end with a sparse one: no retraining, no sparsity level to choose.\n\n"
    "Start with [bold]dirprune train digits[/bold], then open the report it names.",
    rich_markup_mode="rich",
    add_completion=False,
    no_args_is_help=True,
)
_RUN = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
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
_NAMES = {"sgd": "dense twin", "grda": "sparse"}


def main() -> None:
    """Run the command; what the user can mend is one line and exit code 2, a diverged training one line and 1."""
    try:
        code = app(standalone_mode=False)
        _stop("stopped" if code == 130 else "", code or 0)
    except TyperException as error:
        _stop(error.format_message(), error.exit_code)
    except CorruptFileError as error:
        _stop(str(error), 2)
    except ModuleNotFoundError as error:
        advice = "" if "pip install" in str(error) else ": pip install 'directional-pruning[all]'"
        _stop(f"{error}{advice}", 2)
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _stop("stopped", 130)


def _stop(message: str, code: int) -> NoReturn:
    if message:
        print(f"dirprune: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(f"dirprune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before a verb."""


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="See dirprune recipes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the initial weights and of the batches.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start.")] = None,
    c: Annotated[float | None, typer.Option(help="Strength of pruning: more gives more zeros; 0 is none.")] = None,
    mu: Annotated[
        float | None, typer.Option(help="Growth of pruning over time, in (0, 1]: more, later, sparser.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the fastest there is.")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="New folder for the run [dim]\\[default: runs/RECIPE-seedN][/dim].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped, exactly where it was.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the run's folder.")] = False,
) -> None:
    """Train a dense network and its sparse twin, compare them and write a report.

    Both start from the same weights and see the same batches: one under the recipe's optimizer, one under the same
    optimizer made to prune as it goes.

    Options not given are those of the recipe. Ctrl-C is safe: go on with --resume.
    """
    import torch

    from .report import write_report
    from .training import NonFiniteError, create_run, load_run, pick_device, train_run

    given = {"seed": seed, "epochs": epochs, "lr": lr, "c": c, "mu": mu, "batch_size": batch_size}
    overrides = {name: value for name, value in given.items() if value is not None}
    if resume is not None:
        if recipe or overrides or out or device != "auto":
            _stop("--resume goes on with the run as it was configured: give nothing else but --quiet", 2)
        folder, (chosen, _) = resume, load_run(resume)
    else:
        try:
            chosen, place = _derive(recipe, overrides), pick_device(device)
        except ValueError as error:
            _stop(str(error), 2)
        folder = out or _free_folder(Path("runs") / f"{chosen.name}-seed{chosen.seed}")
        try:
            create_run(folder, chosen, place)
        except FileExistsError:
            _stop(f"{folder} exists; give another --out, or go on with --resume {quote(str(folder))}", 2)
    # Denormal numbers, which a decaying network is full of, slow a CPU down several times.
    torch.set_flush_denormal(True)
    torch.set_num_threads(chosen.threads or torch.get_num_threads())
    screen = Console(quiet=quiet)
    try:
        with _progress(screen, chosen) as on_epoch:
            summary = train_run(folder, on_epoch=on_epoch)
    except NonFiniteError as error:
        _stop(f"training diverged, {error}; the run so far: {write_report(folder)}; try a smaller --lr", 1)
    except KeyboardInterrupt:
        _stop(f"stopped; go on with: dirprune train --resume {quote(str(folder))}", 130)
    page = write_report(folder)
    screen.print(_table(summary))
    # Not by Rich, which would read markup into a folder's name.
    print(folder if quiet else f"report: {page}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Show all settings of this one.")] = None,
) -> None:
    """List what can be trained, or show the settings of one recipe."""
    from .training import RECIPES

    if name is not None:
        try:
            recipe = _derive(name, {})
        except ValueError as error:
            _stop(str(error), 2)
        for key, value in recipe.hyperparameters().items():
            print(f"{key} = {value}")
        return
    for make in RECIPES.values():
        print(f"{make().name}: {make().summary}")


@app.command()
def report(run: _RUN) -> None:
    """Draw the pictures and the page of a run anew, also of one under way."""
    from .report import write_report

    print(write_report(run))


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
    from .training.examine import examine_curve

    folder = _folder_of(run, between, model, data, loss, out)
    settings = {"epochs": epochs, "lr": lr, "points": points, "tolerance": tolerance, "bf16": bf16}
    _examine(folder, partial(examine_curve, **settings))


@app.command()
def plane(
    run: _RUN,
    size: Annotated[int, typer.Option(help="Points along each side of the grid.")] = 29,
    margin: Annotated[float, typer.Option(help="What lies around the networks, as a share of their extent.")] = 0.2,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in mixed precision with bfloat16.")] = False,
) -> None:
    """Measure and draw the loss on the plane through both networks and the bend of their curve.

    Needs the curve first. Ctrl-C is safe: the same command goes on.
    """
    from .training.examine import examine_plane

    _examine(run, partial(examine_plane, size=size, margin=margin, bf16=bf16))


@app.command()
def export(
    run: _RUN,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="sparse, onnx or state-dict.")],
    values: Annotated[
        str, typer.Option(help="Of sparse: the nonzeros as float32, or rounded to bfloat16 or float16.")
    ] = "float32",
    compacted: Annotated[bool, typer.Option("--compact", help="Of onnx: without the dead units.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file [dim]\\[default: in RUN][/dim].")] = None,
) -> None:
    """Write the sparse network of a finished run as a small file, for ONNX runtimes, or as a plain state dict."""
    from .training.export import export_run

    try:
        path = export_run(run, form, values=values, out=out, compacted=compacted)
    except ValueError as error:
        _stop(str(error), 2)
    print(f"{path}: {path.stat().st_size:,} bytes")


@app.command()
def compact(
    run: _RUN,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file [dim]\\[default: in RUN][/dim].")] = None,
) -> None:
    """Remove the dead units of a finished run's network, exactly, and write the smaller network.

    The file needs no code of ours: torch.export.load(FILE).module() is the network, for inference.
    """
    from rich.table import Table

    from .training.export import compact_run

    done = compact_run(run, out)
    table = Table("", "before", "after")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, pair in (("parameters", done.parameters), ("multiply-adds of a sample", done.multiply_adds)):
        table.add_row(label, *(f"{count:,}" for count in pair))
    table.add_row("test accuracy", *(f"{accuracy:.2%}" for accuracy in done.test_accuracy))
    Console().print(table)
    print(f"{done.path}: {done.path.stat().st_size:,} bytes")


@app.command()
def size(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .safetensors, .onnx or torch's.")],
) -> None:
    """Measure a file of weights: dense, zipped, and as sparse files, beside the limit for zeros at random places."""
    from rich.table import Table

    from .sparsity import file_size, read_weights

    state = read_weights(file)
    try:
        sizes = [file_size(state, values=values) for values in ("float32", "bfloat16")]
    except ValueError as error:
        _stop(f"{file}: {error}", 2)
    exact = sizes[0]
    share = 1 - exact.nonzeros / exact.total if exact.total else 0.0
    table = Table("", "bytes", "of dense", "bits per nonzero", "limit, zeros at random")
    for column in table.columns[1:]:
        column.justify = "right"
    times = exact.dense_bytes / max(exact.zipped_bytes, 1)
    table.add_row("dense", f"{exact.dense_bytes:,}", "1", "", "")
    table.add_row("zipped", f"{exact.zipped_bytes:,}", f"1/{times:.1f}", "", "")
    for label, part in zip(("sparse, lossless", "sparse, bfloat16"), sizes, strict=True):
        times, bits = part.dense_bytes / part.sparse_bytes, (part.bits_per_nonzero, part.least_bits_per_nonzero)
        table.add_row(label, f"{part.sparse_bytes:,}", f"1/{times:.1f}", *(f"{b:.2f}" for b in bits))
    print(f"{file}: {exact.total:,} numbers, {exact.total - exact.nonzeros:,} of them zero ({share:.2%})")
    Console().print(table)


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
    from .training.curvature import examine_curvature

    _examine(_folder_of(run, between, model, data, loss, out), partial(examine_curvature, k=k, seed=seed))


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

    from .report.theory import write_theory
    from .training.demonstrate import run_theory

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
        _stop(str(error), 2)
    except KeyboardInterrupt:
        _stop("stopped; the same command goes on", 130)
    pictures = write_theory(out)
    print(*lines, sep="\n")
    print("pictures:", *pictures)


def _folder_of(
    run: Path | None,
    between: tuple[Path, Path] | None,
    model: str | None,
    data: str | None,
    loss: str,
    out: Path | None,
) -> Path:
    """The folder of a run, or that made for two checkpoints from elsewhere."""
    from .training.pair import create_pair

    if between is None:
        if run is None or model or data or out:
            _stop("give a RUN, or --between A B with --model, --data and --out", 2)
        return run
    if run or not (model and data and out):
        _stop("--between A B needs --model, --data and --out, and no RUN", 2)
    try:
        create_pair(out, *between, model=model, data=data, loss=loss)
    except ValueError as error:
        _stop(str(error), 2)
    return out


def _examine(folder: Path, examine: Callable[..., str]) -> None:
    """Load the two networks of a folder, look at them under a progress bar, say what was seen and draw it."""
    import torch
    from rich.progress import Progress

    from .report import write_report
    from .training.pair import load_pair

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
    except ValueError as error:
        _stop(str(error), 2)
    except ArithmeticError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop("stopped; the same command goes on", 130)
    page = write_report(folder)
    print(words)
    print(f"report: {page}")


def _derive(name: str | None, overrides: dict[str, Any]) -> "Recipe":
    """The recipe of this name with the flags' values in place of its own; ValueError for a bad name or value."""
    from .training import RECIPES

    if name not in RECIPES:
        problem = "which recipe?" if name is None else f"unknown recipe: {name}"
        raise ValueError(f"{problem} (there is: {', '.join(RECIPES)})")
    return replace(RECIPES[name](), **overrides)


def _free_folder(folder: Path) -> Path:
    """``folder``, or the first of folder-2, folder-3, ... that does not exist."""
    names = (folder if i == 1 else folder.with_name(f"{folder.name}-{i}") for i in count(1))
    return next(name for name in names if not name.exists())


@contextmanager
def _progress(screen: Console, recipe: "Recipe") -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """A bar for each network with loss, accuracy, zeros and the time that remains."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]} acc {task.fields[accuracy]} zeros {task.fields[zeros]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen) as bars:
        tasks = {
            network: bars.add_task(name, total=recipe.epochs, start=False, loss="-", accuracy="-", zeros="-")
            for network, name in _NAMES.items()
        }

        def on_epoch(network: str, record: dict[str, Any]) -> None:
            bars.start_task(tasks[network])
            bars.update(
                tasks[network],
                completed=record["epoch"],
                loss=f"{record['train_loss']:.4f}",
                accuracy=f"{record['validation_accuracy']:.1%}",
                zeros=f"{record['sparsity_all']:.1%}",
            )

        yield on_epoch


def _table(summary: dict[str, Any]) -> "Table":
    """Both networks side by side."""
    from rich.table import Table

    sgd, grda = summary["sgd"], summary["grda"]
    table = Table("", *_NAMES.values(), title=f"{summary['recipe']}: {summary['parameters']:,} parameters")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, key in (
        ("test accuracy", "test_accuracy"),
        ("zeros, of all parameters", "sparsity_all"),
        ("zeros, of prunable weights", "sparsity_prunable"),
    ):
        table.add_row(label, f"{sgd[key]:.2%}", f"{grda[key]:.2%}")
    table.add_row("test loss", f"{sgd['test_loss']:.4f}", f"{grda['test_loss']:.4f}")
    table.add_row("file, dense", f"{sgd['bytes'] / 1e3:,.1f} kB", f"{grda['bytes'] / 1e3:,.1f} kB")
    table.add_row("file, zipped", "", f"{grda['zipped_bytes'] / 1e3:,.1f} kB")
    table.add_row("file, sparse", "", f"{grda['sparse_bytes'] / 1e3:,.1f} kB")
    bits, least = grda["bits_per_nonzero"], grda["least_bits_per_nonzero"]
    table.add_row("bits per nonzero in it", "", f"{bits:.1f}")
    table.add_row("limit, zeros at random", "", f"{least:.1f}")
    table.add_row("seconds of training", f"{sgd['seconds']:.0f}", f"{grda['seconds']:.0f}")
    return table
