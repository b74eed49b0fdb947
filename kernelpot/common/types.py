"""The types that every layer shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
# Atomic numbers of two species, ascending.
Pair = tuple[int, int]
# Called as ``progress(stage, done, total)``.
Progress = Callable[[str, float, float], None]

# Kinds of labels. A stress label is fitted as a virial.
KINDS = ("energy", "forces", "stress")
# Labels that share one noise parameter: kind and, if it has a value of its own, config type.
Group = tuple[str, str]
