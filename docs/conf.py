"""The documentation site: Sphinx, pages in MyST markdown, notebooks with the outputs they hold.

python -m sphinx -W --keep-going docs docs/_build/html        (or .ci/docs, which also checks links)
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from kernelpot import __version__  # noqa: E402

project = "kernelpot"
author = "The kernelpot developers"
copyright = "The kernelpot developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx-mathjax-offline",  # equations need no network
    "numpydoc",
    "myst_nb",
    "sphinxarg.ext",
    "sphinx_copybutton",
    "sphinx_design",
    "pages",  # _ext/pages.py: what is written from the code
]

# Notebooks are run and checked by pytest --nbmake; here they are shown as they are committed.
nb_execution_mode = "off"
nb_mime_priority_overrides = [("html", "text/html", 0)]
myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
templates_path = ["_templates"]

smartquotes = False  # they turn -- of options into a dash
default_role = "py:obj"  # single backticks of docstrings: a link where the name is known
autodoc_typehints = "none"  # numpydoc's sections say more than the annotations
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = "kernelpot"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": "https://github.com/kernelpot/kernelpot/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_show_sourcelink = False

linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_ignore = [
    # publishers answer programs with 403; DOIs are resolved by hand
    r"https://doi\.org/.*",
    # the repository itself: not there for everybody who builds
    r"https://github\.com/kernelpot/kernelpot.*",
]
