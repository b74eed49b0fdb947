"""How much features of atoms spread in some structures: what they are divided by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from kernelpot.common.types import FloatArray
from kernelpot.data.system import System

# Structures that spreads are learned from.
MAX_STRUCTURES = 200
# Features that hardly spread in the data count as if they spread by this share of the others.
LEAST_SPREAD = 0.05


def some_systems(structures: Sequence[Atoms], r_cut: float) -> list[System]:
    """Some of the structures, evenly chosen, with their pairs.

    Parameters
    ----------
    structures : sequence of ase.Atoms
    r_cut : float
        [Å].

    Returns
    -------
    list of System
        Of one structure each.
    """
    chosen = np.linspace(0, len(structures) - 1, min(len(structures), MAX_STRUCTURES))
    return [System.of([structures[int(k)]], r_cut) for k in chosen]


def mean_and_scale(
    values: Callable[[System], FloatArray],
    systems: Sequence[System],
    species: tuple[int, ...],
    n_features: int,
) -> tuple[FloatArray, FloatArray]:
    """What to subtract from features of atoms, and what to multiply them by, by species.

    Scaled, they spread by the inverse square root of their number: the square of the distance
    of two environments is two on average.

    Parameters
    ----------
    values : callable
        Features of all atoms of a system, shape (n_atoms, n_features).
    systems : sequence of System
    species : tuple of int
        Atomic numbers, ascending.
    n_features : int

    Returns
    -------
    mean, scale : ndarray of shape (n_species, n_features)
    """
    count = np.zeros(len(species))
    total, squares = np.zeros((2, len(species), n_features))
    for system in systems:
        found, z = values(system), system.z_index(species)
        for k in np.unique(z):
            count[k] += np.count_nonzero(z == k)
            total[k] += found[z == k].sum(axis=0)
            squares[k] += np.square(found[z == k]).sum(axis=0)
    known = np.maximum(count, 1.0)[:, None]
    mean = total / known
    spread = np.sqrt(np.maximum(squares / known - mean**2, 0.0))
    usual = np.sqrt(np.mean(spread**2, axis=1, keepdims=True))
    spread = np.maximum(spread, LEAST_SPREAD * usual)
    scale = np.where(spread > 0, 1.0 / np.where(spread > 0, spread, 1.0), 1.0)
    return mean, scale / np.sqrt(n_features)
