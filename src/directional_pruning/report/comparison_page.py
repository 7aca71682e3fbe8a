"""The page of several runs beside the paper's results and beside each other: one HTML file that needs nothing else."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from .captions import ABOUT, comparison_captions
from .formatting import MISSING, duration, points
from .groups import Group, gather
from .html import document, pictures, section, table, table_row, write
from .plots.tradeoff import accuracy_against_zeros, layer_by_layer
from .plots.training import training_figure
from .published import Published
from .statistics import COMPARED, Row, Stat, mean_and_deviation, reached, row_of, shared_flags


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write one page about these runs, and the runs below these folders, finished or under way; its path.

    Tables of the means over seeds beside the published figures, and the paper's figures from these runs. The page
    holds all it shows, has no script and asks nothing of the network; the same runs give the same bytes.

    Raises:
        FileNotFoundError: for a folder that is not there, or holds no run.
        CorruptFileError: for a run that cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     _ = (Path(run) / "config.json").write_text('{"recipe": "digits", "c": 0.01, "mu": 0.7}')
    ...     page = write_comparison([Path(run)], Path(run) / "page.html")
    ...     page.name, "μ 0.7" in page.read_text(encoding="utf-8")
    ('page.html', True)
    """
    groups = gather(folders)
    body = [_header(groups)]
    for recipe, part in groupby(groups, key=lambda group: group.runs[0].name):
        body += _recipe(recipe, list(part))
    return write(out, document("Runs beside the paper: directional pruning", "\n".join(filter(None, body))))


def _header(groups: Sequence[Group]) -> str:
    runs, recipes = sum(len(group.runs) for group in groups), len({group.runs[0].name for group in groups})
    paper = " beside the paper" if any(group.paper for group in groups) else ""
    title = f"{runs} run{'s' * (runs > 1)} of {recipes} recipe{'s' * (recipes > 1)}{paper}"
    return f"<header>\n<h1>{title}</h1>\n{ABOUT}\n</header>"


def _recipe(recipe: str, groups: Sequence[Group]) -> list[str]:
    """The sections of one recipe: its table with the sources of the paper's numbers, and its figures."""
    paper, rows = groups[0].paper, [row_of(group) for group in groups]
    figures = {name: training_figure(name, groups) for name in training_panels(paper)}
    figures |= {"accuracy_zeros": accuracy_against_zeros(groups), "layers": layer_by_layer(groups)}
    sources = ""
    if paper:
        text = "; ".join(f"{key.replace('_', ' ')}: {source}" for key, source in paper.sources.items())
        sources = f'<p class="about">The paper\'s numbers. {escape(text[:1].upper() + text[1:])}.</p>'
    return [
        section(escape(recipe), _table(rows) + sources, lead="; ".join(shared_flags(rows))),
        section("", pictures(figures, comparison_captions(groups, rows, figures)), "pictures"),
    ]


def training_panels(paper: Published | None) -> list[str]:
    """The figures over training; the training accuracy where the paper shows it and not the loss."""
    curves = {name for row in paper.settings for name in row.curves} if paper else set()
    extra = ["training_accuracy"] if "train_accuracy" in curves and "train_loss" not in curves else []
    return ["accuracy", *extra, "loss", "sparsity", "norm_ratio"]


def _table(rows: Sequence[Row]) -> str:
    paper = any(row.published for row in rows)
    parts = ["ours", "paper", "difference"] if paper else [""]
    above = "".join(f'<th colspan="{len(parts)}">{name},&nbsp;%</th>' for name, _ in COMPARED)
    names = ["setting", "seeds", *parts * len(COMPARED), "zeros, prunable,&nbsp;%", "time"]
    lines, shared = [], shared_flags(rows)
    for row in rows:
        cells = [f"{row.seeds}" if row.seeds == row.runs else f"{row.seeds} of {row.runs}"]
        for _, name in COMPARED:
            cells += [_cell(getattr(row, name))]
            cells += [_cell(row.published.get(name)), points(row.difference(name))] * paper
        cells += [_cell(row.sparsity_prunable), duration(row.seconds.mean) if row.seconds else MISSING]
        lines.append(table_row(escape(row.label), *cells))
        flags = "; ".join(flag for flag in row.flags if flag not in shared)
        texts = [("flags problem", f"{finding.text}.") for finding in row.problems]
        texts += [("flags", text) for text in (reached(row), *(f"{finding.text}." for finding in row.remarks), flags)]
        for kind, text in filter(lambda each: each[1], texts):
            lines.append(f'<tr class="{kind}"><td colspan="{len(names)}">{escape(text)}</td></tr>\n')
    return table("compared", lines, f'<th colspan="2"></th>{above}<th colspan="2"></th>', names=names)


def _cell(stat: Stat | None) -> str:
    """Percent, and the deviation below it."""
    deviation = "" if stat is None or stat.std is None else f"<small>± {100 * stat.std:.2f}</small>"
    return mean_and_deviation(stat and stat._replace(std=None), unit="") + deviation
