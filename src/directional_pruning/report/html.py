"""The pieces of a page: one HTML file that needs nothing else, light or dark as the reader's screen is."""

import base64
from collections.abc import Mapping
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
.compared {{ width: 100%; font-size: .85rem; }}
.compared td, .compared th {{ padding-left: .8rem; white-space: nowrap; }}
.compared thead th {{ text-align: right; white-space: normal; vertical-align: bottom; }}
.compared thead tr:first-child th {{ padding-bottom: 0; border: 0; color: var(--ink); }}
.compared small {{ display: block; color: var(--muted); font-size: .85em; line-height: 1; }}
.compared th:first-child {{ padding-left: 0; color: var(--ink); }}
.compared tr:has(+ .flags) > * {{ border-bottom: 0; padding-bottom: 0; }}
.compared .flags td {{ padding: 0 0 .4rem; color: var(--muted); text-align: left; white-space: normal; }}
.compared:last-child {{ margin-bottom: 1.75rem; }}
.compared + .about {{ margin-top: 1rem; font-size: .85rem; }}
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
