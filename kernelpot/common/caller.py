"""Warnings that point to the line of the user, however deep they are found."""

from __future__ import annotations

import sys
import warnings

# Between the user's line and ours there may be ASE, decorators and pools.
_PASSED_THROUGH = ("kernelpot", "ase", "contextlib", "functools", "concurrent", "threading")


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is neither of this package nor of ASE.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    frame = sys._getframe(1)
    level = 2
    while _is_passed_through(frame.f_globals):
        if frame.f_back is None:  # all of it is ours: the command line
            level = 2
            break
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_passed_through(names: dict[str, object]) -> bool:
    return str(names.get("__name__", "")).split(".")[0] in _PASSED_THROUGH
