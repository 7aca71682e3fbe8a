"""The parts of a page: one HTML file that needs nothing else, light or dark as the reader's screen is."""

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from ..files import replacing
from .plots.style import AT_NIGHT, COLOURS, FONTS, GRID, GROUND, INK, MUTED, to_svg


def pictures(
    figures: Mapping[str, Figure | None], captions: Mapping[str, tuple[str, str]], folder: Path | None = None
) -> str:
    """The figures that are there, as part of a page; each also a file of ``folder`` if one is given."""
    parts = []
    for name, figure in figures.items():
        if figure is None:
            continue
        caption, alternative = captions[name]
        svg = to_svg(figure, alternative)
        if folder is not None:
            folder.mkdir(exist_ok=True)
            write(folder / f"{name}.svg", svg)
        source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
        image = f'<img alt="{escape(alternative)}" src="{source}">'
        parts.append(f"<figure>\n<figcaption>{escape(caption)}</figcaption>\n{image}\n</figure>")
    return "\n".join(parts)


def table(kind: str, rows: Sequence[str], *heads: str, names: Sequence[str] = ()) -> str:
    """Rows below lines of headings, the last of them these ``names``; nothing where there are no rows."""
    last = "".join(f'<th scope="col">{name}</th>' for name in names)
    head = "".join(f"<tr>{line}</tr>\n" for line in (*heads, *[last] * bool(names)))
    head = head and f"<thead>\n{head}</thead>\n"
    return f'<table class="{kind}">\n{head}<tbody>\n{"".join(rows)}</tbody>\n</table>\n' if rows else ""


def table_row(name: str, *cells: str) -> str:
    """One row, whose first cell names it."""
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>\n'


def section(heading: str, content: str, kind: str = "wide", lead: str = "") -> str:
    """A heading and a sentence, if there are such, and the content; nothing where there is none."""
    heading = heading and f"<h2>{heading}</h2>\n"
    lead = lead and f"<p>{escape(lead[:1].upper() + lead[1:])}.</p>\n"
    return content and f'<section>\n{heading}{lead}<div class="{kind}">\n{content}\n</div>\n</section>'


def write(path: Path, text: str) -> Path:
    """Put the text in the place of the file, or leave the old one; its path."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    return path


def document(title: str, body: str) -> str:
    """The whole document; ``title`` and ``body`` are HTML already."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{_style()}</style>
</head>
<body>
{body}
</body>
</html>
"""


@cache
def _style() -> str:
    day, night = _properties({}), _properties(AT_NIGHT)
    properties = f":root {{ --fonts: {FONTS}; {day} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {night} }} }}\n"
    properties += f"@media print {{ :root {{ {day} }} }}\n"
    return properties + Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _properties(dark: Mapping[str, str]) -> str:
    colours = {"ink": INK, "muted": MUTED, "rule": GRID, "ground": GROUND, **COLOURS}
    return "".join(f"--{name}:{dark.get(colour, colour)};" for name, colour in colours.items())
