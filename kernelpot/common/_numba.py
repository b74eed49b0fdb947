"""A place for compiled loops where neither the package nor the home can be written.

numba keeps them beside the source, else in the user's cache directory, and refuses to
work where it can write neither (a system-wide installation used by a service account).
"""

import os
import tempfile
from collections.abc import Sequence

from numba import config

# Of every compiled loop. No nnan/ninf: a NaN position must stay visible in the result.
OPTIONS = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
# Functions that others call are compiled into these. As symbols of their own they would exist
# several times, optimized differently, and it would depend on what was loaded first (so on
# whether the cache was filled) which of them runs: results differed in the last bit.
INLINED = {**OPTIONS, "forceinline": True}


def fallback(candidates: Sequence[str]) -> str | None:
    """Return a temporary directory if none of the directories can be made or written."""
    for path in candidates:
        while not os.path.exists(path) and os.path.dirname(path) != path:
            path = os.path.dirname(path)
        if os.path.isdir(path) and os.access(path, os.W_OK):
            return None
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    return os.path.join(tempfile.gettempdir(), f"kernelpot-{user}")


if not config.CACHE_DIR:
    _HERE = os.path.dirname(os.path.abspath(__file__))
    _HOME = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    _PLACE = fallback([os.path.join(_HERE, "__pycache__"), os.path.join(_HOME, "numba")])
    if _PLACE is not None:
        config.CACHE_DIR = _PLACE
