"""The page of a run: one HTML file that needs nothing else, for someone who has never heard of the method."""

import base64
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..files import replacing
from .canvas import to_svg
from .captions import Picture, breaks, training_pictures, weight_pictures
from .records import NETWORKS, Record, Run, read_run
from .template import frame
from .wording import NAMES, THE, amount, decimal, duration, percent, size

_ABOUT = """<p class="about">gRDA trains a network and prunes it in the same pass: after every step, each weight that
has not outgrown a slowly rising threshold is set to exactly zero. Its <span class="sgd">dense twin</span> is the same
network, trained from the same initial weights by plain stochastic gradient descent (SGD). The method: Chao, Wang, Xing
and Cheng, <cite>Directional Pruning of Deep Neural Networks</cite>, NeurIPS 2020, arXiv 2006.09358.</p>"""

_MEANINGS = {
    "epochs": "passes over the training data",
    "batch_size": "examples per step",
    "lr": "learning rate at the start",
    "c": "strength of the threshold; 0 is plain SGD",
    "mu": "how fast the threshold grows",
    "seed": "start of every random number",
}

Row = tuple[str, str, Callable[[float], str]]
_RESULTS: Sequence[Row] = (
    ("Test accuracy", "test_accuracy", lambda value: percent(value, 2)),
    ("Test loss", "test_loss", decimal),
    ("Training loss", "train_loss", decimal),
    ("Zeros, all parameters", "sparsity_all", percent),
    ("Zeros, prunable weights", "sparsity_prunable", percent),
    ("File, dense", "bytes", size),
    ("File, sparse", "sparse_bytes", size),
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

    Returns the path of the page, which holds its figures and its style, has no script and asks nothing of the network.
    The same run gives the same bytes. Raises ``FileNotFoundError`` if the folder is missing or no run, and
    ``CorruptFileError`` if a file of the run cannot be read.

    >>> import json, tempfile
    >>> run = Path(tempfile.mkdtemp())
    >>> _ = (run / "config.json").write_text(json.dumps({"recipe": "digits", "command": "dirprune train digits"}))
    >>> page = write_report(run)
    >>> page.name, "dirprune train digits" in page.read_text(encoding="utf-8")
    ('report.html', True)
    """
    folder = Path(folder)
    run = read_run(folder)
    sections = [_header(run), _results(run)]
    for heading, pictures in (("Training", training_pictures(run)), ("Weights", weight_pictures(run))):
        sections.append(_section(heading, _pictures(pictures, folder / "figures"), "pictures"))
    sections += [_reproduce(run.config), _settings(run.config), _versions(run.config)]
    page = folder / "report.html"
    _write(page, frame(escape(f"{run.name}: directional pruning"), "\n".join(filter(None, sections))))
    return page


def _header(run: Run) -> str:
    first, rest = _headline(run)
    rest = f"{rest}{breaks(run)}".strip()
    lead = f"<p>{escape(rest)}</p>\n" if rest else ""
    return f'<header>\n<p class="recipe">{escape(run.name)}</p>\n<h1>{escape(first)}</h1>\n{lead}{_ABOUT}\n</header>'


def _headline(run: Run) -> tuple[str, str]:
    """The result in one sentence, and what else is worth a line; or how far a run has come."""
    if not run.summary:
        return _progress(run)
    summary, grda, sgd = (_finite(part) for part in (run.summary, run.summary.get("grda"), run.summary.get("sgd")))
    parts = []
    if "sparsity_all" in grda:
        parts.append(f"{percent(grda['sparsity_all'])} of all parameters are exactly zero")
    if "test_accuracy" in grda:
        twin = f" against {percent(sgd['test_accuracy'])} for the dense twin" if "test_accuracy" in sgd else ""
        parts.append(f"test accuracy {percent(grda['test_accuracy'])}{twin}")
    rest = []
    if "parameters" in summary:
        rest.append(f"The network has {amount(summary['parameters'])} parameters.")
    small, large = grda.get("sparse_bytes", 0), sgd.get("bytes", grda.get("bytes", 0))
    if small > 0 and large > small:
        times = decimal(large / small, 2)
        rest.append(f"Stored without its zeros it takes {size(small)} instead of {size(large)}, {times} times less.")
    if "seconds" in summary:
        rest.append(f"The whole run took {duration(summary['seconds'])}.")
    return "; ".join(parts) or "Finished", " ".join(rest)


def _progress(run: Run) -> tuple[str, str]:
    if not run.metrics:
        return "Not finished: no epoch is complete yet", ""
    network, last = run.metrics[-1]["network"], _finite(run.metrics[-1])
    planned = f" of {last['epochs']:.0f}" if "epochs" in last else ""
    first = f"Not finished: {THE[network]} is at epoch {last['epoch']}{planned}"
    if network == "sgd":
        return first, "The dense twin trains first; gRDA follows from the same initial weights."
    zeros = last.get("sparsity_all")
    return first, "" if zeros is None else f"So far {percent(zeros)} of all parameters are exactly zero."


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


def _pictures(pictures: Sequence[Picture], folder: Path) -> str:
    """Write each picture as a file, and all of them into the page."""
    shown = []
    for picture in pictures:
        svg = to_svg(picture.figure, picture.alternative)
        folder.mkdir(exist_ok=True)
        _write(folder / f"{picture.name}.svg", svg)
        source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
        image = f'<img alt="{escape(picture.alternative)}" src="{source}">'
        shown.append(f"<figure>\n<figcaption>{escape(picture.caption)}</figcaption>\n{image}\n</figure>")
    return "\n".join(shown)


def _reproduce(config: Record) -> str:
    command = config.get("command")
    return _section("Run it again", f"<pre><code>{escape(str(command))}</code></pre>" if command else "")


def _settings(config: Record) -> str:
    shown = {key: value for key, value in config.items() if key not in ("command", "versions")}
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{_value(value)}</td><td>{_MEANINGS.get(key, "")}</td></tr>\n'
        for key, value in shown.items()
    )
    return _section("Configuration", rows and f'<table class="settings">\n<tbody>\n{rows}</tbody>\n</table>')


def _versions(config: Record) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{_value(value)}</td></tr>\n'
        for key, value in (config.get("versions") or {}).items()
    )
    return _section("Versions", rows and f'<table class="settings">\n<tbody>\n{rows}</tbody>\n</table>')


def _finite(record: Record | None) -> dict[str, float]:
    """The numbers of a record that are numbers."""
    return {
        key: value for key, value in (record or {}).items() if isinstance(value, int | float) and math.isfinite(value)
    }


def _section(heading: str, content: str, kind: str = "wide") -> str:
    """A heading over its content; nothing where there is none."""
    return content and f'<section>\n<h2>{heading}</h2>\n<div class="{kind}">\n{content}\n</div>\n</section>'


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
