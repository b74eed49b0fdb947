"""Pages of what was measured, from the output files of the benchmarks."""

from __future__ import annotations


def pages() -> dict[str, str]:
    """Pages by file name, in MyST."""
    return {}
