"""Aligned text tables, and numbers in them."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out aligned columns; the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join([first, *rest]).rstrip()

    return "\n".join([line(header), *map(line, rows)])


def number(value: float | None, digits: int) -> str:
    """Write a number with so many digits, a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def extent(values: Sequence[float] | None, digits: int) -> str:
    """Write a range, or one number where both ends look the same."""
    if values is None:
        return "-"
    low, high = (f"{v:.{digits}f}" for v in values)
    return low if low == high else f"{low} .. {high}"
