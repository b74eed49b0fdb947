"""Pages written from the code at each build, so that they cannot go stale."""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx


def copy_notebooks(app: Sphinx) -> None:
    """Put the notebooks among the sources; an unchanged one keeps its time."""
    folder = Path(app.srcdir) / "tutorials"
    here = {path.name: path for path in (Path(app.srcdir).parent / "notebooks").glob("*.ipynb")}
    for old in folder.glob("*.ipynb"):
        if old.name not in here:
            old.unlink()
    for name, path in here.items():
        copy = folder / name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", copy_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
