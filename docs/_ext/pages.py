"""Pages written from the code at each build, so that they cannot go stale."""

from __future__ import annotations

from pathlib import Path

import api
import constants
import measured
from sphinx.application import Sphinx

WRITTEN = {
    "reference/python.rst": api.page,
    "reference/constants.md": constants.page,
}


def write_pages(app: Sphinx) -> None:
    """Write what comes from the code, and copy what lies outside of `docs`.

    A file that would not change keeps its time, so that it is not read again.
    """
    here = Path(app.srcdir)
    found = {here / name: page().encode() for name, page in WRITTEN.items()}
    found |= {here / "measured" / name: text.encode() for name, text in measured.pages().items()}
    for path in (here.parent / "notebooks").glob("*.ipynb"):
        found[here / "tutorials" / path.name] = path.read_bytes()
    for old in (here / "tutorials").glob("*.ipynb"):
        if old not in found:
            old.unlink()
    for path, content in found.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect(
        "config-inited", lambda app, config: write_pages(app)
    )  # before files are looked for
    return {"parallel_read_safe": True, "parallel_write_safe": True}
