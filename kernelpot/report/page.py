"""Pieces of a page that needs no other file, and reads well on a phone."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kernelpot._version import __version__
from kernelpot.common.axes import PANEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Dots per inch: a panel is some 700 dots wide, twice its width on a phone.
DPI = 160
STYLE = """
:root { color-scheme: light dark; --line: rgba(128,128,128,.35); --soft: rgba(128,128,128,.12); }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; margin: 0 auto;
  padding: 0 1rem 3rem; max-width: 76rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 1.2rem 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; border-top: 1px solid var(--line);
  padding-top: 1rem; }
p, ul { max-width: 46rem; }
nav { font-size: .9rem; margin: 0 0 1rem; }
nav a { margin-right: 1em; white-space: nowrap; display: inline-block; padding: .2em 0; }
.panels { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; background: #fff; border-radius: 6px; }
figcaption { font-size: .85rem; margin-top: .3rem; }
.tiles { display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); }
.tile { background: var(--soft); border-radius: 6px; padding: .5rem .8rem; font-size: .85rem; }
.tile b { display: block; font-size: 1.1rem; line-height: 1.3; }
.wide { overflow-x: auto; margin: .6rem 0; min-width: 0; }
.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
td { white-space: nowrap; }
th, td { padding: .25em .7em; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.text td, table.text th { text-align: left; }
table.text td { white-space: normal; }
table.text td:first-child { overflow-wrap: anywhere; min-width: 6em; }
details { margin: .8rem 0; }
summary { cursor: pointer; }
pre { background: var(--soft); border-radius: 6px; padding: .8em; white-space: pre-wrap;
  font-size: .8rem; }
footer { margin-top: 3rem; font-size: .85rem; }
.panels table { font-size: .8rem; }
.panels th, .panels td { padding: .25em .4em; }
@media (max-width: 30rem) { th, td { padding: .25em .35em; } table { font-size: .8rem; } }
"""


def heading(text: str) -> str:
    """Begin a section, which `contents` finds by its text."""
    return f'<h2 id="{html.escape(anchor(text))}">{html.escape(text)}</h2>\n'


def anchor(text: str) -> str:
    """Name of a section in links."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def contents(headings: Sequence[str]) -> str:
    """Links to the sections."""
    links = [f'<a href="#{html.escape(anchor(h))}">{html.escape(h)}</a>' for h in headings]
    return f"<nav>{''.join(links)}</nav>\n"


def paragraph(text: str) -> str:
    """Text of a paragraph."""
    return f"<p>{html.escape(text)}</p>\n"


def items(lines: Sequence[str]) -> str:
    """List of sentences; nothing for none."""
    entries = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul>{entries}</ul>\n" if entries else ""


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    """Headline numbers: what they are, and their values."""
    boxes = [
        f'<div class="tile"><b>{html.escape(value)}</b>{html.escape(name)}</div>'
        for name, value in facts
    ]
    return f'<div class="tiles">{"".join(boxes)}</div>\n'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> str:
    """Table of numbers (or of text), which scrolls sideways where it is too wide."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>\n"

    kind = ' class="text"' if text else ""
    body = "".join(line(row, "td") for row in rows)
    head = line(header, "th") if any(header) else ""
    return f'<div class="wide"><table{kind}>\n{head}{body}</table></div>\n'


def folded(summary: str, text: str) -> str:
    """Text that opens on a click."""
    return (
        f"<details><summary>{html.escape(summary)}</summary>"
        f"<pre>{html.escape(text)}</pre></details>\n"
    )


def panel(
    name: str,
    draw: Callable[[Axes], object],
    caption: str = "",
    *,
    size: tuple[float, float] = PANEL,
) -> str:
    """One picture with its caption.

    Parameters
    ----------
    name : str
        Of the picture, for readers who do not see it.
    draw : callable
        Draws on the axes it is given.
    caption : str
    size : (float, float)
        [inches].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    encoded = base64.b64encode(stream.getvalue()).decode()
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    source = f"data:image/png;base64,{encoded}"
    return f'<figure><img alt="{html.escape(name)}" src="{source}">{below}</figure>\n'


def panels(found: Sequence[str], *, small: bool = False) -> str:
    """Pictures and tables side by side, as many as fit."""
    kind = "panels small" if small else "panels"
    return f'<div class="{kind}">\n{"".join(found)}</div>\n' if found else ""


def page(title: str, body: str) -> str:
    """The whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}"
        f"<footer>kernelpot {__version__}</footer>\n</body>\n</html>\n"
    )
