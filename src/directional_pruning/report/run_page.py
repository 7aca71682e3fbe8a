"""The page of a run: one HTML file that needs nothing else, for someone who has never heard of the method."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..run_folder import NETWORKS, Record, Run, read_run
from .captions import ABOUT, MEANINGS, captions, headline
from .formatting import NAMES, amount, decimal, duration, percent, points, size
from .html import document, pictures, section, write
from .plots import curvature, landscape
from .plots import run as figures
from .published import published
from .statistics import mean_and_deviation, paper_stats, protocol_flags

Row = tuple[str, str, Callable[[float], str]]
_RESULTS: Sequence[Row] = (
    ("Test accuracy", "test_accuracy", lambda value: percent(value, 2)),
    ("Test loss", "test_loss", decimal),
    ("Training loss", "train_loss", decimal),
    ("Zeros, all parameters", "sparsity_all", percent),
    ("Zeros, prunable weights", "sparsity_prunable", percent),
    ("File, dense", "bytes", size),
    ("File, zipped", "zipped_bytes", size),
    ("File, sparse", "sparse_bytes", size),
    ("Bits per nonzero in it", "bits_per_nonzero", decimal),
    ("Limit, zeros at random", "least_bits_per_nonzero", decimal),
    ("Training time", "seconds", duration),
)
_SO_FAR: Sequence[Row] = (
    ("Epoch", "epoch", amount),
    ("Training loss", "train_loss", decimal),
    ("Validation accuracy", "validation_accuracy", lambda value: percent(value, 2)),
    ("Zeros, all parameters", "sparsity_all", percent),
    ("Zeros, prunable weights", "sparsity_prunable", percent),
)


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` and ``figures/*.svg`` into the folder of a run, finished or under way.

    The pictures of the valley are those of ``curve.npz``, ``plane.npz`` and ``curvature.npz``, where they are there.

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
    run = read_run(folder)
    words, drawn = captions(run), folder / "figures"
    training = {
        "loss": figures.loss_figure(run.metrics),
        "accuracy": figures.accuracy_figure(run.metrics, paper_protocol=run.paper_protocol),
        "sparsity": figures.sparsity_figure(run.metrics),
        "schedule": figures.schedule_figure(run.metrics),
        "norm_ratio": figures.norm_ratio_figure(run.metrics, run.name, *run.setting),
    }
    weights = {
        "layers": figures.layers_figure(run.summary.get("layers", [])),
        "histogram": figures.histogram_figure(run.summary.get("histogram", {})),
    }
    curve, plane = landscape.read_curve(folder), landscape.read_plane(folder)
    words |= landscape.valley_captions(curve, plane)
    valley = pictures(landscape.valley_figures(curve, plane), words, drawn)
    curved = curvature.read_curvature(folder)
    words |= curvature.curvature_captions(curved)
    flat = pictures({"curvature": curvature.curvature_figure(curved)}, words, drawn)
    command = escape(str(run.config.get("command") or ""))
    settings = {key: value for key, value in run.config.items() if key not in ("command", "versions")}
    sections = [
        _header(run),
        _results(run),
        section("The paper", *_paper(run)),
        section("Training", pictures(training, words, drawn), "pictures"),
        section("Weights", pictures(weights, words, drawn), "pictures"),
        section("One valley?", valley, "pictures", str(curve["verdict"]) if curve else ""),
        section("Flat directions?", flat, "pictures", str(curved["verdict"]) if curved else ""),
        section("Run it again", command and f"<pre><code>{command}</code></pre>"),
        section("Configuration", _settings(settings, MEANINGS)),
        section("Versions", _settings(run.config.get("versions") or {})),
    ]
    page = folder / "report.html"
    write(page, document(escape(f"{run.name}: directional pruning"), "\n".join(filter(None, sections))))
    return page


def _header(run: Run) -> str:
    first, rest = headline(run)
    lead = f"<p>{escape(rest)}</p>\n" if rest else ""
    about = "" if "between" in run.config else ABOUT
    return f'<header>\n<p class="recipe">{escape(run.name)}</p>\n<h1>{escape(first)}</h1>\n{lead}{about}\n</header>'


def _results(run: Run) -> str:
    """The two networks side by side: the final figures, or the latest ones of a run under way."""
    if run.summary:
        records = {network: run.summary[network] for network in NETWORKS if run.summary.get(network)}
        return section("Result", _comparison(_RESULTS, records))
    records = {network: run.of(network)[-1] for network in NETWORKS if run.of(network)}
    watched = "Test accuracy" if run.paper_protocol else "Validation accuracy"
    rows = [(label.replace("Validation accuracy", watched), key, said) for label, key, said in _SO_FAR]
    return section("So far", _comparison(rows, records))


def _paper(run: Run) -> tuple[str, str, str]:
    """The published figures of this recipe and setting beside the run's: content, kind and lead of a section."""
    known = published(run.name)
    row = known.setting(*run.setting) if known else None
    if known is None or row is None:
        return "", "", ""
    rows = []
    stats = paper_stats(known, row)
    for label, network, key, theirs in (
        ("Zeros, all parameters", "grda", "sparsity_all", stats["sparsity_all"]),
        ("Test accuracy, gRDA", "grda", "test_accuracy", stats["test_accuracy"]),
        ("Test accuracy, dense baseline", "sgd", "test_accuracy", stats.get("twin_accuracy")),
    ):
        if theirs is not None:
            value = (run.summary.get(network) or {}).get(key)
            here = ("–", "–") if value is None else (percent(value, 2), points(value - theirs.mean))
            rows.append((label, mean_and_deviation(theirs), *here))
    if row.threshold is not None:
        last = run.of("grda")[-1].get("threshold") if run.summary and run.of("grda") else None
        rows.append(("Threshold at the end", decimal(row.threshold), "–" if last is None else decimal(last), "–"))
    lines = ""
    for label, *cells in rows:
        lines += f'<tr><th scope="row">{label}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>\n'
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("the paper", "this run", "difference, points"))
    table = f'<table class="results">\n<thead><tr><td></td>{heads}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table>'
    seeds = "one run" if row.seeds == 1 else f"mean ± sample standard deviation of {row.seeds} seeds"
    said = f"{seeds} of {known.recipe}, c {row.c:g}, μ {row.mu:g}, {known.epochs} epochs ({known.sources['settings']})"
    remarks = [said, row.note, *protocol_flags(run.config, known)]
    return table, "wide", "; ".join(filter(None, remarks))


def _comparison(rows: Sequence[Row], records: Mapping[str, Record]) -> str:
    lines = []
    for label, key, said in rows:
        if any(key in record for record in records.values()):
            cells = "".join(f"<td>{said(record[key]) if key in record else '–'}</td>" for record in records.values())
            lines.append(f'<tr><th scope="row">{label}</th>{cells}</tr>\n')
    if not lines:
        return ""
    heads = "".join(f'<th scope="col" class="{network}">{NAMES[network]}</th>' for network in records)
    head = f"<thead><tr><td></td>{heads}</tr></thead>"
    return f'<table class="results">\n{head}\n<tbody>\n{"".join(lines)}</tbody>\n</table>'


def _settings(values: Record, meanings: Mapping[str, str] | None = None) -> str:
    """A table of names and values, with a column for what they mean if ``meanings`` are given."""
    rows = ""
    for key, value in values.items():
        meaning = "" if meanings is None else f"<td>{meanings.get(key, '')}</td>"
        rows += f'<tr><th scope="row">{escape(key)}</th><td>{_value(value)}</td>{meaning}</tr>\n'
    return rows and f'<table class="settings">\n<tbody>\n{rows}</tbody>\n</table>'


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
