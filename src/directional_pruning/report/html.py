"""The pieces of a page: one HTML file that needs nothing else, light or dark as the reader's screen is."""

import base64
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from ..files import replacing
from .plots.style import AT_NIGHT, COLOURS, FONTS, GRID, GROUND, INK, MUTED, to_svg


def pictures(
    drawn: Mapping[str, Figure | None], words: Mapping[str, tuple[str, str]], folder: Path | None = None
) -> str:
    """The pictures that are there, as part of a page; each also a file of ``folder`` if one is given."""
    shown = []
    for name, figure in drawn.items():
        if figure is None:
            continue
        caption, alternative = words[name]
        svg = to_svg(figure, alternative)
        if folder is not None:
            folder.mkdir(exist_ok=True)
            write(folder / f"{name}.svg", svg)
        source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
        image = f'<img alt="{escape(alternative)}" src="{source}">'
        shown.append(f"<figure>\n<figcaption>{escape(caption)}</figcaption>\n{image}\n</figure>")
    return "\n".join(shown)


def section(heading: str, content: str, kind: str = "wide", lead: str = "") -> str:
    """A heading, a line of words if there is one, and the content; nothing where there is none."""
    first = f"<p>{escape(lead[:1].upper() + lead[1:])}.</p>\n" if lead else ""
    return content and f'<section>\n<h2>{heading}</h2>\n{first}<div class="{kind}">\n{content}\n</div>\n</section>'


def write(path: Path, text: str) -> None:
    """Put the text in the place of the file, or leave the old one."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


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
    """The style sheet, with the colours of the figures, for light and dark, as its custom properties."""
    day, night = _properties({}), _properties(AT_NIGHT)
    properties = f":root {{ --fonts: {FONTS}; {day} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {night} }} }}\n"
    properties += f"@media print {{ :root {{ {day} }} }}\n"
    return properties + Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _properties(dark: Mapping[str, str]) -> str:
    colours = {"ink": INK, "muted": MUTED, "rule": GRID, "ground": GROUND, **COLOURS}
    return "".join(f"--{name}:{dark.get(colour, colour)};" for name, colour in colours.items())
