"""Objects shown in a notebook: a title, a few facts, tables, and the whole text folded away."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Colours are those of the page, light or dark.
_BOX = (
    "border:1px solid rgba(128,128,128,.5);border-radius:4px;padding:.5em .8em;margin:.3em 0;"
    "max-width:60em;overflow-x:auto;font-size:90%"
)
_CELL = "text-align:left;padding:.1em .9em .1em 0;vertical-align:top;border:none"
_RULE = "border-bottom:1px solid rgba(128,128,128,.5)"


def card(title: str, facts: Sequence[tuple[str, str]] = (), *parts: str) -> str:
    """Box with a title, names and values, and parts made by `grid` or `folded`.

    Parameters
    ----------
    title : str
    facts : sequence of (str, str)
        Names and values.
    *parts : str
        HTML.

    Returns
    -------
    str
        HTML.
    """
    rows = "".join(
        f'<tr><td style="{_CELL}">{escape(name)}</td><td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in facts
    )
    table = f'<table style="border-collapse:collapse">{rows}</table>' if rows else ""
    return f'<div style="{_BOX}"><b>{escape(title)}</b>{table}{"".join(parts)}</div>'


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], at_most: int = 20) -> str:
    """Table for a card, as HTML; of more than `at_most` rows the first.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequence of str
    at_most : int

    Returns
    -------
    str
    """

    def line(cells: Sequence[str], tag: str, rule: str = "") -> str:
        style = f"{_CELL};{rule}"
        return f"<tr>{''.join(f'<{tag} style={style!r}>{escape(c)}</{tag}>' for c in cells)}</tr>"

    shown = [line(row, "td") for row in rows[:at_most]]
    if len(rows) > at_most:
        shown.append(line([f"... {len(rows) - at_most} more"], "td"))
    lines = [line(header, "th", _RULE), *shown]
    return f'<table style="border-collapse:collapse">{"".join(lines)}</table>'


def folded(summary: str, text: str) -> str:
    """Text that opens on a click, as HTML.

    Parameters
    ----------
    summary, text : str

    Returns
    -------
    str
    """
    return (
        f"<details><summary>{escape(summary)}</summary>"
        f'<pre style="font-size:85%;margin:.3em 0">{escape(text)}</pre></details>'
    )


def shorten(text: str, at_most: int = 60) -> str:
    """Cut a long line.

    Parameters
    ----------
    text : str
    at_most : int

    Returns
    -------
    str
    """
    return text if len(text) <= at_most else f"{text[: at_most - 4].rstrip()} ..."
