"""A smooth step, shared by everything that is switched on or off."""

from __future__ import annotations

import numpy as np

from kernelpot.common.types import FloatArray


def smoothstep(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """C2 step from 0 at x <= 0 to 1 at x >= 1, and its derivative."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10.0 + x * (6.0 * x - 15.0)), 30.0 * x**2 * (1.0 - x) ** 2
