"""The page of a run: one HTML file that needs nothing else, for someone who has never heard of the method."""

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..files import replacing
from . import curvature, figures, landscape
from .canvas import AT_NIGHT, COLOURS, FONTS, GRID, GROUND, INK, MUTED, to_svg
from .records import NETWORKS, Record, Run, read_run
from .text import ABOUT, MEANINGS, NAMES, amount, captions, decimal, duration, headline, percent, size

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
    words, pictures = captions(run), folder / "figures"
    training = {
        "loss": figures.loss_figure(run.metrics),
        "accuracy": figures.accuracy_figure(run.metrics),
        "sparsity": figures.sparsity_figure(run.metrics),
        "schedule": figures.schedule_figure(run.metrics),
    }
    weights = {
        "layers": figures.layers_figure(run.summary.get("layers", [])),
        "histogram": figures.histogram_figure(run.summary.get("histogram", {})),
    }
    curve, plane = landscape.read_curve(folder), landscape.read_plane(folder)
    words |= landscape.valley_captions(curve, plane)
    valley = _pictures(landscape.valley_figures(curve, plane), words, pictures)
    curved = curvature.read_curvature(folder)
    words |= curvature.curvature_captions(curved)
    flat = _pictures({"curvature": curvature.curvature_figure(curved)}, words, pictures)
    command = escape(str(run.config.get("command") or ""))
    settings = {key: value for key, value in run.config.items() if key not in ("command", "versions")}
    sections = [
        _header(run),
        _results(run),
        _section("Training", _pictures(training, words, pictures), "pictures"),
        _section("Weights", _pictures(weights, words, pictures), "pictures"),
        _section("One valley?", valley, "pictures", str(curve["verdict"]) if curve else ""),
        _section("Flat directions?", flat, "pictures", str(curved["verdict"]) if curved else ""),
        _section("Run it again", command and f"<pre><code>{command}</code></pre>"),
        _section("Configuration", _settings(settings, MEANINGS)),
        _section("Versions", _settings(run.config.get("versions") or {})),
    ]
    page = folder / "report.html"
    _write(page, _document(escape(f"{run.name}: directional pruning"), "\n".join(filter(None, sections))))
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
        return _section("Result", _comparison(_RESULTS, records))
    records = {network: run.of(network)[-1] for network in NETWORKS if run.of(network)}
    return _section("So far", _comparison(_SO_FAR, records))


def _comparison(rows: Sequence[Row], records: Mapping[str, Record]) -> str:
    lines = []
    for label, key, write in rows:
        if any(key in record for record in records.values()):
            cells = "".join(f"<td>{write(record[key]) if key in record else '–'}</td>" for record in records.values())
            lines.append(f'<tr><th scope="row">{label}</th>{cells}</tr>\n')
    if not lines:
        return ""
    heads = "".join(f'<th scope="col" class="{network}">{NAMES[network]}</th>' for network in records)
    head = f"<thead><tr><td></td>{heads}</tr></thead>"
    return f'<table class="results">\n{head}\n<tbody>\n{"".join(lines)}</tbody>\n</table>'


def _pictures(drawn: Mapping[str, Figure | None], words: Mapping[str, tuple[str, str]], folder: Path) -> str:
    """Write each picture as a file, and all of them into the page."""
    shown = []
    for name, figure in drawn.items():
        if figure is None:
            continue
        caption, alternative = words[name]
        svg = to_svg(figure, alternative)
        folder.mkdir(exist_ok=True)
        _write(folder / f"{name}.svg", svg)
        source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
        image = f'<img alt="{escape(alternative)}" src="{source}">'
        shown.append(f"<figure>\n<figcaption>{escape(caption)}</figcaption>\n{image}\n</figure>")
    return "\n".join(shown)


def _settings(values: Record, meanings: Mapping[str, str] | None = None) -> str:
    """A table of names and values, with a column for what they mean if ``meanings`` are given."""
    rows = ""
    for key, value in values.items():
        meaning = "" if meanings is None else f"<td>{meanings.get(key, '')}</td>"
        rows += f'<tr><th scope="row">{escape(key)}</th><td>{_value(value)}</td>{meaning}</tr>\n'
    return rows and f'<table class="settings">\n<tbody>\n{rows}</tbody>\n</table>'


def _section(heading: str, content: str, kind: str = "wide", lead: str = "") -> str:
    """A heading, a line of words if there is one, and the content; nothing where there is none."""
    first = f"<p>{escape(lead[:1].upper() + lead[1:])}.</p>\n" if lead else ""
    return content and f'<section>\n<h2>{heading}</h2>\n{first}<div class="{kind}">\n{content}\n</div>\n</section>'


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def _document(title: str, body: str) -> str:
    """The whole document; ``title`` and ``body`` are HTML already."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _colours(of: dict[str, str]) -> str:
    named = {"ink": INK, "muted": MUTED, "rule": GRID, "ground": GROUND, "sgd": COLOURS["sgd"], "grda": COLOURS["grda"]}
    return "".join(f"--{name}:{of.get(colour, colour)};" for name, colour in named.items())


_STYLE = f"""
:root {{ color-scheme: light dark; {_colours({})} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_colours(AT_NIGHT)} }} }}
@media print {{ :root {{ color-scheme: light; {_colours({})} }} }}
* {{ box-sizing: border-box; }}
html {{ background: var(--ground); color: var(--ink); font: 16px/1.55 {FONTS}; -webkit-text-size-adjust: 100%; }}
body {{ max-width: 58rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }}
header p, h1, h2, section > p {{ max-width: 42rem; }}
.recipe {{ margin: 0 0 .5rem; color: var(--grda); font-weight: 600; overflow-wrap: anywhere; }}
h1 {{ margin: 0 0 1rem; font-size: clamp(1.5rem, 1.1rem + 2vw, 2.1rem); line-height: 1.2; letter-spacing: -.015em;
     text-wrap: balance; }}
h2 {{ margin: 3rem 0 .75rem; font-size: 1.2rem; letter-spacing: -.005em; }}
p {{ margin: 0 0 1rem; }}
.about {{ color: var(--muted); }}
.sgd {{ color: var(--sgd); }} .grda {{ color: var(--grda); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .4rem 0 .4rem 1.25rem; border-bottom: 1px solid var(--rule); text-align: right;
         vertical-align: baseline; }}
th:first-child, td:first-child {{ padding-left: 0; text-align: left; }}
th {{ font-weight: 400; color: var(--muted); }}
thead th {{ font-weight: 600; white-space: nowrap; }}
thead .sgd {{ color: var(--sgd); }}
thead .grda {{ color: var(--grda); }}
.results {{ width: 100%; max-width: 42rem; }}
.settings td {{ min-width: 6rem; text-align: left; overflow-wrap: anywhere; }}
.settings td + td {{ color: var(--muted); }}
@media (max-width: 30rem) {{ table {{ font-size: .9rem; }} th, td {{ padding-left: .75rem; }} }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 2.25rem 2rem;
             align-items: start; }}
figure {{ display: grid; grid-template-rows: subgrid; grid-row: span 2; gap: .75rem; margin: 0; max-width: 30rem; }}
img {{ display: block; width: 100%; height: auto; }}
pre {{ margin: 0 0 1rem; padding: .75rem 1rem; border: 1px solid var(--rule); border-radius: .4rem; overflow-x: auto;
      user-select: all; white-space: pre-wrap; overflow-wrap: anywhere; }}
code {{ font: .9em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
@media print {{
  html {{ font-size: 10.5pt; }} body {{ max-width: none; padding: 0; }}
  figure, tr, pre {{ break-inside: avoid; }} h2 {{ break-after: avoid; }}
  .pictures {{ grid-template-columns: 1fr 1fr; gap: 1.5rem; }}
}}
"""
