"""The page of a run: one HTML file that needs nothing else, for someone who has never heard of the method."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..run_folder import NETWORKS, Record, Run, read_run
from .captions import ABOUT, MEANINGS, headline, run_captions
from .findings import kinds, problems
from .formatting import MISSING, NAMES, amount, decimal, duration, percent, points, size
from .groups import Group, single_group
from .html import document, pictures, section, table, table_row, write
from .plots import curvature, landscape
from .plots.training import schedule_figure, training_figure
from .plots.weights import histogram_figure, layers_figure
from .statistics import COMPARED, mean_and_deviation, protocol_flags, row_of

# Label, key and format of the results; the first eight are in the records of the epochs too.
_RESULTS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("Epoch", "epoch", amount),
    ("Test accuracy", "test_accuracy", lambda value: percent(value, 2)),
    ("Test loss", "test_loss", decimal),
    ("Training loss", "train_loss", decimal),
    ("Validation accuracy", "validation_accuracy", lambda value: percent(value, 2)),
    ("Zeros, all parameters", "sparsity_all", percent),
    ("Zeros, prunable weights", "sparsity_prunable", percent),
    ("Zeros, pruned weights", "sparsity_pruned", lambda value: percent(value, 2)),
    ("File, dense", "bytes", size),
    ("File, zipped", "zipped_bytes", size),
    ("File, sparse", "sparse_bytes", size),
    ("Bits per nonzero in it", "bits_per_nonzero", decimal),
    ("Limit, zeros at random", "least_bits_per_nonzero", decimal),
    ("Training time", "seconds", duration),
)


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` and ``figures/*.svg`` into the folder of a run, finished or under way.

    The figures of the landscape show ``curve.npz``, ``plane.npz`` and ``curvature.npz``, where they are there.

    Returns the path of the page, which holds its figures and its style, has no script and asks nothing of the network.
    The same run gives the same bytes. Raises ``FileNotFoundError`` if the folder is missing or no run, and
    ``CorruptFileError`` if a file of the run cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     _ = (Path(run) / "config.json").write_text('{"command": "dirprune train digits"}')
    ...     page = write_report(run)
    ...     page.name, "dirprune train digits" in page.read_text(encoding="utf-8")
    ('report.html', True)
    """
    folder = Path(folder)
    run, files = read_run(folder), folder / "figures"
    group = single_group(run)
    training = {name: training_figure(name, [group], single=True) for name in ("loss", "accuracy", "sparsity")}
    training |= {"schedule": schedule_figure(group), "norm_ratio": training_figure("norm_ratio", [group], single=True)}
    weights = {
        "layers": layers_figure(run.summary.get("layers", [])),
        "histogram": histogram_figure(run.summary.get("histogram", {})),
    }
    captions = run_captions(run, training)
    curve, plane, curved = landscape.read_curve(folder), landscape.read_plane(folder), curvature.read_curvature(folder)
    valley = pictures(landscape.valley_figures(curve, plane), landscape.valley_captions(curve, plane), files)
    flat = pictures({"curvature": curvature.curvature_figure(curved)}, curvature.curvature_captions(curved), files)
    doubt = f"; but one of the networks failed ({kinds(problems(run))})" if problems(run) else ""
    command = escape(str(run.config.get("command") or ""))
    settings = {key: value for key, value in run.config.items() if key not in ("command", "versions")}
    for key in ("target",) if run.target is None else ("c", "mu"):
        settings.pop(key, None)  # they do not count
    sections = [
        _header(run),
        _results(run),
        _paper(run, group),
        section("Training", pictures(training, captions, files), "pictures"),
        section("Weights", pictures(weights, captions, files), "pictures"),
        section("One valley?", valley, "pictures", f"{curve['verdict']}{doubt}" if curve else ""),
        section("Flat directions?", flat, "pictures", f"{curved['verdict']}{doubt}" if curved else ""),
        section("Run it again", command and f"<pre><code>{command}</code></pre>"),
        section("Configuration", _settings(settings, MEANINGS)),
        section("Versions", _settings(run.config.get("versions") or {})),
    ]
    page = document(escape(f"{run.name}: directional pruning"), "\n".join(filter(None, sections)))
    return write(folder / "report.html", page)


def _header(run: Run) -> str:
    title, details = headline(run)
    lead = f"<p>{escape(details)}</p>\n" if details else ""
    about = "" if "between" in run.config else ABOUT
    return f'<header>\n<p class="recipe">{escape(run.name)}</p>\n<h1>{escape(title)}</h1>\n{lead}{about}\n</header>'


def _results(run: Run) -> str:
    """The two networks side by side: the final figures, or the latest ones of a run under way."""
    if run.summary:
        heading, figures = "Result", _RESULTS
        records = {network: run.summary[network] for network in NETWORKS if run.summary.get(network)}
    else:
        heading, figures = "So far", _RESULTS[:8]
        records = {network: run.of(network)[-1] for network in NETWORKS if run.of(network)}
    rows = []
    for label, key, write_value in figures:
        if any(key in record for record in records.values()):
            label = "Test accuracy" if key == "validation_accuracy" and run.paper_protocol else label
            if key == "sparsity_pruned" and run.target is not None:
                label += f" (target {percent(run.target)})"
            cells = [write_value(record[key]) if key in record else MISSING for record in records.values()]
            rows.append(table_row(label, *cells))
    if failed := problems(run):
        rows.insert(0, table_row("Outcome", *(escape(kinds(failed, network)) or MISSING for network in records)))
    names = "".join(f'<th scope="col" class="{network}">{NAMES[network]}</th>' for network in records)
    return section(heading, table("results", rows, f"<td></td>{names}"))


def _paper(run: Run, group: Group) -> str:
    paper, published = group.paper, group.paper_row
    if paper is None or published is None:
        return ""
    row = row_of(group)
    rows = []
    for label, name in COMPARED:
        if name in row.published:
            cells = [mean_and_deviation(stat) for stat in (row.published[name], getattr(row, name))]
            rows.append(table_row(label.capitalize(), *cells, points(row.difference(name))))
    if published.threshold is not None:
        last = run.of("grda")[-1].get("threshold") if run.summary and run.of("grda") else None
        ours = MISSING if last is None else decimal(last)
        rows.append(table_row("Threshold at the end", decimal(published.threshold), ours, MISSING))
    seeds = "one run" if published.seeds == 1 else f"mean ± sample standard deviation of {published.seeds} seeds"
    setting = f"c {published.c:g}, μ {published.mu:g}, {paper.epochs} epochs ({paper.sources['settings']})"
    remarks = [f"{seeds} of {paper.recipe}, {setting}", published.note, *protocol_flags(run.config, paper)]
    content = table("results", rows, names=("", "the paper", "this run", "difference, points"))
    return section("The paper", content, lead="; ".join(filter(None, remarks)))


def _settings(values: Record, meanings: Mapping[str, str] | None = None) -> str:
    """A table of names and values, with a column for what they mean if ``meanings`` are given."""
    rows = []
    for key, value in values.items():
        rows.append(table_row(escape(key), _value(value), *([] if meanings is None else [meanings.get(key, "")])))
    return table("settings", rows)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
