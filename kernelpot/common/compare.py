"""Equality of data classes that hold arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np


class ComparesArrays:
    """A data class (with ``eq=False``) that equals another one if all its values do.

    Arrays are equal if shapes and numbers are, NaN with NaN; fields with ``compare=False`` play
    no part.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        """Compare field by field."""
        if type(other) is not type(self):
            return NotImplemented
        compared = [f.name for f in fields(self) if f.compare]  # type: ignore[arg-type]
        return all(_same(getattr(self, name), getattr(other, name)) for name in compared)


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(two, np.ndarray):
        if one is None or two is None:
            return False
        one, two = np.asarray(one), np.asarray(two)
        return bool(np.array_equal(one, two, equal_nan=one.dtype.kind == two.dtype.kind == "f"))
    return bool(one == two)
