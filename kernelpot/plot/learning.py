"""How errors fall with the number of structures that are fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernelpot.common.types import FloatArray, IntArray, Progress
from kernelpot.data.dataset import Dataset
from kernelpot.model.errors import evaluate

# Sizes of a learning curve by default, and the smallest.
N_SIZES, SMALLEST = 5, 10
# Errors by kind: their key in `evaluate`, and their unit.
ERRORS = {
    "energy": ("energy_mae_mev_per_atom", "meV/atom"),
    "forces": ("forces_mae_ev_per_ang", "eV/Å"),
    "stress": ("stress_mae_gpa", "GPa"),
}


@dataclass(frozen=True)
class LearningCurve:
    """Errors on test structures against the number of training structures.

    Attributes
    ----------
    kind : {"energy", "forces", "stress"}
    sizes : ndarray of int of shape (n,)
        Structures fitted, free atoms not counted.
    mae : ndarray of shape (n,)
        Mean absolute error [meV/atom, eV/Å or GPa].
    """

    kind: str
    sizes: IntArray
    mae: FloatArray


def learning_curve(
    fit: Callable[[Dataset], Any],
    train: Dataset,
    test: Dataset,
    *,
    kind: str = "forces",
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> LearningCurve:
    """Fit growing random parts of the data, each within the next, and test the fits.

    Parameters
    ----------
    fit : callable
        Makes a fitted potential of a dataset.
    train, test : Dataset
    kind : {"energy", "forces", "stress"}
    sizes : sequence of int, optional
        Numbers of structures; by default five up to all, evenly on a logarithmic scale.
    seed : int
        Of the order in which structures are taken.
    n_threads : int, optional
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    LearningCurve

    Raises
    ------
    ValueError
        If there are no such labels to test on, or fewer structures than a size.
    """
    if kind not in ERRORS:
        raise ValueError(f"`quantity` must be one of {', '.join(ERRORS)}, got {kind!r}")
    free = [frame for frame in train if frame.is_isolated_atom]
    others = [frame for frame in train if not frame.is_isolated_atom]
    if sizes is None:
        sizes = np.unique(
            np.geomspace(min(SMALLEST, len(others)), max(len(others), 1), N_SIZES).astype(int)
        ).tolist()
    if not sizes or min(sizes) < 1 or max(sizes) > len(others):
        raise ValueError(
            f"`sizes` must be between 1 and {len(others)}, the structures there are to fit, "
            f"got {list(sizes)}"
        )
    order = np.random.default_rng(seed).permutation(len(others))
    found = []
    for done, size in enumerate(sorted(sizes)):
        potential = fit(Dataset([*free, *(others[k] for k in order[:size])]))
        error = evaluate(potential, test, n_threads=n_threads)[ERRORS[kind][0]]
        if error is None:
            raise ValueError(f"the structures to test on have no labels of the kind {kind!r}")
        found.append(error)
        if progress is not None:
            progress("learning curve", done + 1, len(sizes))
    return LearningCurve(kind, np.array(sorted(sizes)), np.array(found))
