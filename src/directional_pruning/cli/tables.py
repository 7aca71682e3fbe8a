"""The tables that verbs print."""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import CorruptFileError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..report import Row, Tuned

__all__ = ["show_comparison", "show_findings", "show_problems", "show_tuned", "train_table"]


def train_table(run: Path) -> "Table":
    """Both networks of a finished run side by side, and what the paper published of them."""
    from rich.table import Table

    from ..report import comparison_rows, kinds
    from ..run_folder import read_summary

    summary = read_summary(run)
    sgd, grda = summary["sgd"], summary["grda"]
    table = Table("", "dense baseline", "sparse", title=f"{summary['recipe']}: {summary['parameters']:,.0f} parameters")
    (row,) = comparison_rows([run])
    paper = row.published
    published = {}
    if paper:
        seeds = paper["test_accuracy"].count
        table.add_column(f"paper, {seeds} seed{'s' * (seeds != 1)}")
        baseline = f"{paper['dense_accuracy'].mean:.2%} / " if "dense_accuracy" in paper else ""
        published = {
            "test_accuracy": f"{baseline}{paper['test_accuracy'].mean:.2%}",
            "sparsity_all": f"{paper['sparsity_all'].mean:.2%}",
        }

    def add(label: str, dense: str, sparse: str, key: str = "") -> None:
        table.add_row(label, dense, sparse, *([published.get(key, "")] if published else []))

    for column in table.columns[1:]:
        column.justify = "right"
    if row.problems:
        add("outcome", kinds(row.problems, "sgd"), kinds(row.problems, "grda"))
    for label, key in (
        ("test accuracy", "test_accuracy"),
        ("zeros, of all parameters", "sparsity_all"),
        ("zeros, of prunable weights", "sparsity_prunable"),
    ):
        add(label, f"{sgd[key]:.2%}", f"{grda[key]:.2%}", key)
    zeros = grda.get("sparsity_pruned")
    if zeros is not None and (row.target is not None or abs(zeros - grda["sparsity_prunable"]) > 1e-9):
        asked = "" if row.target is None else f" (target {row.target:.2%})"
        add(f"zeros, of pruned weights{asked}", "", f"{zeros:.2%}")
    add("test loss", f"{sgd['test_loss']:.4f}", f"{grda['test_loss']:.4f}")
    add("file, dense", f"{sgd['bytes'] / 1e3:,.1f} kB", f"{grda['bytes'] / 1e3:,.1f} kB")
    add("file, zipped", "", f"{grda['zipped_bytes'] / 1e3:,.1f} kB")
    add("file, sparse", "", f"{grda['sparse_bytes'] / 1e3:,.1f} kB")
    bits, least = grda["bits_per_nonzero"], grda["least_bits_per_nonzero"]
    add("bits per nonzero in it", "", f"{bits:.1f}")
    add("limit, zeros at random", "", f"{least:.1f}")
    add("seconds of training", f"{sgd['seconds']:.0f}", f"{grda['seconds']:.0f}")
    return table


def show_tuned(screen: "Console", tuned: "Tuned") -> None:
    """Print the targets that were trained, the choice, and how far it can be trusted."""
    from rich.table import Table
    from rich.text import Text

    from ..report import tune_cells

    heads, rows = tune_cells(tuned)
    table = Table(*heads, title=Text(f"{tuned.recipe}: targets"))
    for column in table.columns[:-1]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    screen.print(table)
    for line in (tuned.choice(), *tuned.remarks()):
        screen.print(Text(line), soft_wrap=True)


def show_comparison(screen: "Console", rows: Iterable["Row"]) -> None:
    """Print for each recipe its settings beside the paper's, and what departs from the paper, a line each."""
    from rich.table import Table
    from rich.text import Text

    from ..report import COMPARED, in_words, kinds, reached, shared_flags

    for recipe, part in groupby(rows, key=lambda row: row.recipe):
        group = list(part)
        shared = shared_flags(group)
        flags = [f"each: {flag}" for flag in shared]
        table = Table("", "seeds", *(f"{heading}, %" for heading, _ in COMPARED), title=Text(recipe))
        for column in table.columns[1:]:
            column.justify = "right"
        for row in group:
            seeds = f"{row.seeds}" if row.seeds == row.runs else f"{row.seeds} of {row.runs}"
            label = Text("\n".join(filter(None, (row.label, kinds(row.problems)))))
            table.add_row(label, seeds, *(in_words(row, name) for _, name in COMPARED), end_section=True)
            flags += [f"{row.label}: {flag}" for flag in row.flags if flag not in shared]
        screen.print(table)
        for row in group:
            if text := reached(row):
                screen.print(Text(f"{row.label}: {text}"), soft_wrap=True)
            show_findings(screen, row, "" if len(group) == 1 else f"{row.label}: ")
        for flag in flags:
            screen.print(Text(flag), soft_wrap=True)


def show_problems(run: Path) -> None:
    """Print what went wrong in a run, a line each; also that its files cannot be read."""
    from ..report import problems
    from ..run_folder import read_run

    try:
        texts = [finding.text for finding in problems(read_run(run))]
    except CorruptFileError as error:
        texts = [str(error)]
    for text in texts:
        print(f"but: {text}")


def show_findings(screen: "Console", row: "Row", label: str = "") -> None:
    """Print what went wrong, a line each, and what the difference in accuracy means; errors even where quiet."""
    from rich.console import Console
    from rich.text import Text

    for finding in row.problems:
        place = Console(stderr=True) if screen.quiet else screen
        place.print(Text(label + finding.text, style="bold red"), soft_wrap=True)
    for finding in row.remarks:
        screen.print(Text(label + finding.text), soft_wrap=True)
