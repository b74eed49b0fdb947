"""Forces that are zero because nothing tells a direction."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from kernelpot.data.neighbors import neighbor_list

# Neighbors looked at [Å], widths of the weights they have [Å], and what counts as nothing.
_REACH, _WIDTHS, _NOTHING = 6.0, (1.5, 2.5, 4.0), 1e-4


def forces_vanish_by_symmetry(atoms: Atoms) -> bool:
    """Whether the neighbors of every atom are arranged so that no direction is told.

    Parameters
    ----------
    atoms : ase.Atoms

    Returns
    -------
    bool
        True if for every atom and species of neighbors the vectors to them add up to nothing,
        under weights that fall with distance in several ways. Sites of perfect crystals, free
        atoms.
    """
    pairs = neighbor_list(atoms, _REACH)
    if not pairs.n_pairs:
        return True
    vectors = pairs.displacements(atoms.positions)
    distances = np.linalg.norm(vectors, axis=1)
    species, kinds = np.unique(atoms.numbers, return_inverse=True)
    n_bins = len(atoms) * len(species)
    bins = pairs.centers * len(species) + kinds[pairs.neighbors]
    for width in _WIDTHS:
        weights = np.exp(-((distances / width) ** 2))
        total = np.bincount(bins, weights, n_bins)
        for axis in range(3):
            told = np.bincount(bins, weights * vectors[:, axis] / distances, n_bins)
            if np.any(np.abs(told) > _NOTHING * np.maximum(total, 1e-6)):
                return False
    return True
