"""Equality and display of data classes that hold arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np


class ComparesArrays:
    """A data class (with ``eq=False, repr=False``) that equals another one if all its values do.

    Arrays are equal if shapes and numbers are, NaN with NaN; fields with ``compare=False`` play
    no part. Its text shows large arrays by their shapes.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        """Compare field by field."""
        if type(other) is not type(self):
            return NotImplemented
        compared = [f.name for f in fields(self) if f.compare]  # type: ignore[arg-type]
        return all(_same(getattr(self, name), getattr(other, name)) for name in compared)

    def __repr__(self) -> str:
        """Show what is there, arrays by their shapes."""
        shown = []
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.repr and not (
                value is None or (isinstance(value, (dict, tuple, str)) and not value)
            ):
                shown.append(f"{f.name}={_short(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    """Numbers to four digits, arrays of more than one by their shape."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"<{' x '.join(map(str, value.shape))}>"
    if isinstance(value, (float, np.floating)):
        return f"{value:.7g}"
    return repr(value)


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(two, np.ndarray):
        if one is None or two is None:
            return False
        one, two = np.asarray(one), np.asarray(two)
        return bool(np.array_equal(one, two, equal_nan=one.dtype.kind == two.dtype.kind == "f"))
    return bool(one == two)
