"""A smooth step, shared by everything that is switched on or off."""

from __future__ import annotations

import numpy as np

from kernelpot.common.types import FloatArray


def smoothstep(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """C2 step from 0 at x <= 0 to 1 at x >= 1, and its derivative."""
    x = np.minimum(np.maximum(x, 0.0), 1.0)
    square = x * x
    return square * x * (10.0 + x * (6.0 * x - 15.0)), 30.0 * square * (1.0 - x) ** 2
