"""The page that sets runs beside the paper and beside each other: one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure

from .captions import ABOUT
from .formatting import duration, points
from .groups import Group, gather
from .html import document, pictures, section, write
from .plots import tradeoff as at_the_end
from .plots import training as over_training
from .statistics import COMPARED, Row, Stat, mean_and_deviation, row_of, shared_flags


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write one page about these runs, and the runs below these folders, finished or under way; its path.

    Tables of the means over seeds beside the published figures, and the paper's pictures from these runs. The page
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
    for recipe, part in groupby(groups, key=lambda group: group.recipe):
        body += _recipe(recipe, list(part))
    write(out, document("Runs beside the paper: directional pruning", "\n".join(filter(None, body))))
    return out


def _header(groups: Sequence[Group]) -> str:
    runs, recipes = sum(len(group.runs) for group in groups), len({group.recipe for group in groups})
    paper = " beside the paper" if any(group.known for group in groups) else ""
    said = f"{runs} run{'s' * (runs > 1)} of {recipes} recipe{'s' * (recipes > 1)}{paper}"
    return f"<header>\n<h1>{said}</h1>\n{ABOUT}\n</header>"


def _recipe(recipe: str, groups: Sequence[Group]) -> list[str]:
    """The sections of one recipe: its table, its pictures, and where the paper's numbers are from."""
    drawn = {
        "accuracy": over_training.accuracy_over_training(groups),
        "training-accuracy": over_training.training_accuracy_over_training(groups),
        "loss": over_training.loss_over_training(groups),
        "zeros": over_training.zeros_over_training(groups),
        "norm-ratio": over_training.norm_ratio_over_training(groups),
        "accuracy-zeros": at_the_end.accuracy_against_zeros(groups),
        "layers": at_the_end.layer_by_layer(groups),
    }
    known = groups[0].known
    sources = ""
    if known:
        said = "; ".join(f"{key.replace('_', ' ')}: {source}" for key, source in known.sources.items())
        sources = f'<p class="about">The paper\'s numbers. {escape(said[:1].upper() + said[1:])}.</p>'
    rows = [row_of(group) for group in groups]
    return [
        section(escape(recipe), _table(rows) + sources, lead="; ".join(shared_flags(rows))),
        section("", pictures(drawn, _captions(groups, rows, drawn)), "pictures").replace("<h2></h2>\n", ""),
    ]


def _table(rows: Sequence[Row]) -> str:
    """A row for each setting, and below it what the reader must know of it."""
    paper = any(row.published for row in rows)
    parts = ["ours", "paper", "difference"] if paper else [""]
    above = '<th colspan="2"></th>' + "".join(f'<th colspan="{len(parts)}">{name},&nbsp;%</th>' for name, _ in COMPARED)
    above += '<th colspan="2"></th>'
    heads = ["setting", "seeds", *parts * len(COMPARED), "zeros, prunable,&nbsp;%", "time"]
    below = "".join(f'<th scope="col">{head}</th>' for head in heads)
    lines, shared = [], shared_flags(rows)
    for row in rows:
        cells = [f"{row.seeds}" if row.seeds == row.runs else f"{row.seeds} of {row.runs}"]
        for _, name in COMPARED:
            difference = row.difference(name)
            compared = (_cell(row.published.get(name)), "–" if difference is None else points(difference))
            cells += [_cell(getattr(row, name)), *compared * paper]
        cells += [_cell(row.sparsity_prunable), duration(row.seconds.mean) if row.seconds else "–"]
        said = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{escape(row.label)}</th>{said}</tr>\n')
        own = [flag for flag in row.flags if flag not in shared]
        if own:
            said = escape("; ".join(own))
            lines.append(f'<tr class="flags"><td colspan="{len(heads)}">{said}</td></tr>\n')
    head = f"<thead>\n<tr>{above}</tr>\n<tr>{below}</tr>\n</thead>"
    return f'<table class="compared">\n{head}\n<tbody>\n{"".join(lines)}</tbody>\n</table>\n'


def _cell(stat: Stat | None) -> str:
    """Percent, and the deviation below it."""
    if stat is None:
        return "–"
    deviation = "" if stat.std is None else f"<small>± {100 * stat.std:.2f}</small>"
    return mean_and_deviation(stat._replace(std=None), unit="") + deviation


def _said(stat: Stat | None) -> str:
    return "not known yet" if stat is None else mean_and_deviation(stat)


def _captions(
    groups: Sequence[Group], rows: Sequence[Row], drawn: Mapping[str, Figure | None]
) -> dict[str, tuple[str, str]]:
    """What to see in each picture, and the same for those who cannot see it."""
    held = any(not group.runs[0].paper_protocol for group in groups)
    data = "held-out training images, not the test data that the paper shows" if held else "the test data"
    if held and groups[0].known is None:
        data = "the validation data"
    which = "the seeds that have got furthest" if any(row.seeds < row.runs for row in rows) else "seeds"
    seeds = f"Lines are means over {which}, shades reach from the lowest to the highest."
    ends = "; ".join(
        f"{row.label}: zeros {_said(row.sparsity_all)}, test accuracy {_said(row.test_accuracy)}" for row in rows
    )
    cut = (
        " What lies more than 18 points below the best is cut off."
        if groups[0].known and groups[0].known.frontier
        else ""
    )
    return {
        "accuracy": (
            f"Accuracy on {data}. The first fifth may lie below the picture. {seeds}",
            f"Accuracy over training for each setting. {ends}.",
        ),
        "training-accuracy": (
            "Accuracy on the training data, as far as the paper shows it.",
            f"Training accuracy over training for each setting. {ends}.",
        ),
        "loss": ("How well the networks fit their training data.", f"Training loss over training. {ends}."),
        "zeros": ("How the networks empty while they train.", f"Zeros over training. {ends}."),
        "norm-ratio": (
            "The 2-norm of all parameters over their 1-norm: the higher, the fewer weights carry the network.",
            f"Ratio of the norms over training for each setting. {ends}.",
        ),
        "accuracy-zeros": (
            f"What the zeros cost at the end of training, on the test data. Bars are one sample deviation.{cut}",
            f"Test accuracy against zeros for each setting. {ends}.",
        ),
        "layers": (
            "Where the zeros are: each layer's weights, from the input to the output.",
            f"Zeros layer by layer for each setting. {ends}.",
        ),
    }
