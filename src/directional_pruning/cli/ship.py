"""Verbs that hand a network on: ``export``, ``compact``, ``size``."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from .app import RUN, app, stop
from .progress import Screen
from .tables import show_problems

__all__ = ["compact", "export", "size"]


@app.command()
def export(
    run: RUN,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="sparse, onnx or state-dict.", show_default=False)
    ] = "",
    values: Annotated[
        str, typer.Option(help="Of sparse: the nonzeros as float32, or rounded to bfloat16 or float16.")
    ] = "float32",
    compacted: Annotated[bool, typer.Option("--compact", help="Of onnx: without the dead units.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file [dim]\\[default: in RUN][/dim].")] = None,
) -> None:
    """Write the sparse network of a finished run as a small file, for ONNX runtimes, or as a plain state dict."""
    from ..runs import export_run

    if not form:
        stop("which format? Give --format sparse, --format onnx or --format state-dict", 2)
    try:
        path = export_run(run, form, values=values, out=out, compacted=compacted)
    except (ValueError, RuntimeError) as error:
        stop(str(error), 2)
    print(f"{path}: {path.stat().st_size:,} bytes")
    show_problems(run)


@app.command()
def compact(
    run: RUN,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file [dim]\\[default: in RUN][/dim].")] = None,
) -> None:
    """Remove the dead units of a finished run's network, exactly, and write the smaller network.

    The file needs no code of ours: torch.export.load(FILE).module() is the network, for inference.
    """
    from rich.table import Table

    from ..runs import compact_run

    try:
        done = compact_run(run, out)
    except (ValueError, RuntimeError) as error:
        stop(str(error), 2)
    table = Table("", "before", "after")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, pair in (("parameters", done.parameters), ("multiply-adds of a sample", done.multiply_adds)):
        table.add_row(label, *(f"{count:,}" for count in pair))
    table.add_row("test accuracy", *(f"{accuracy:.2%}" for accuracy in done.test_accuracy))
    Screen().print(table)
    print(f"{done.path}: {done.path.stat().st_size:,} bytes")
    show_problems(run)


@app.command()
def size(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .safetensors, .onnx, .pt2 or torch's.")],
) -> None:
    """Measure a file of weights: dense, zipped, and as sparse files, beside the limit for zeros at random places."""
    from rich.table import Table

    from ..deploy import file_size, read_weights
    from ..run_folder import CONFIG, SPARSE_WEIGHTS

    if file.is_dir():
        stop(f"{file} is a folder; give a file of weights, such as {file / SPARSE_WEIGHTS}", 2)
    state = read_weights(file)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sizes = [file_size(state, values=values) for values in ("float32", "bfloat16")]
    except (ValueError, TypeError, NotImplementedError) as error:
        stop(f"{file}: {error}", 2)
    exact = sizes[0]
    if not exact.total:
        stop(f"{file}: holds no numbers", 2)
    share = 1 - exact.nonzeros / exact.total
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
    Screen().print(table)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(message)
    if file.name == SPARSE_WEIGHTS and (file.parent / CONFIG).is_file():
        show_problems(file.parent)
