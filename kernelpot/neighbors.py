"""Neighbor lists: full, sorted by center (CSR), every periodicity.

The pairs come from `vesin`; this module adds what molecular dynamics needs: a list
over many structures at once (for fitting) and a list that survives small moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ase import Atoms

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NeighborList:
    """Pairs ``i -> j`` of one or several structures, sorted by center.

    Attributes
    ----------
    first : ndarray of shape (n_atoms + 1,)
        Pairs of center ``i`` are ``first[i] .. first[i + 1] - 1``.
    neighbors : ndarray of shape (n_pairs,)
        Index of the neighboring atom of each pair.
    shifts : ndarray of shape (n_pairs, 3)
        Cartesian translation of the neighbor's periodic image [Å]: the displacement
        of a pair is ``positions[j] - positions[i] + shift``.
    """

    first: IntArray
    neighbors: IntArray
    shifts: FloatArray

    @property
    def n_pairs(self) -> int:
        """Number of pairs, both directions counted."""
        return len(self.neighbors)

    @property
    def centers(self) -> IntArray:
        """Index of the center of each pair, shape (n_pairs,)."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def displacements(self, positions: FloatArray) -> FloatArray:
        """Return vectors from center to neighbor [Å], shape (n_pairs, 3)."""
        found = positions[self.neighbors]
        found += self.shifts
        found -= np.repeat(positions, np.diff(self.first), axis=0)
        return found


def _pairs(atoms: Atoms, cutoff: float) -> tuple[IntArray, IntArray, IntArray]:
    import vesin

    pbc = np.asarray(atoms.pbc, dtype=bool)
    cell = np.array(atoms.cell.complete() if pbc.any() else np.zeros((3, 3)))
    search = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)
    i, j, shift = search.compute(
        points=np.ascontiguousarray(atoms.positions, dtype=float),
        box=cell,
        periodic=pbc if pbc.any() else False,
        quantities="ijS",
    )
    return i.astype(np.int64), j.astype(np.int64), shift.astype(np.int64)


def neighbor_list(structures: Atoms | Sequence[Atoms], cutoff: float) -> NeighborList:
    """Find all pairs closer than `cutoff`.

    Parameters
    ----------
    structures : ase.Atoms or sequence of ase.Atoms
        With several structures the atoms are numbered consecutively.
    cutoff : float
        Largest pair distance [Å].

    Returns
    -------
    NeighborList
        Pairs sorted by center.
    """
    if isinstance(structures, Atoms):
        structures = [structures]
    counts, neighbors, shifts = [], [], []
    offset = 0
    for atoms in structures:
        i, j, shift = _pairs(atoms, cutoff)
        counts.append(np.bincount(i, minlength=len(atoms)))
        neighbors.append(j + offset)
        cell = np.array(atoms.cell.complete()) if atoms.pbc.any() else np.zeros((3, 3))
        shifts.append(shift @ cell)
        offset += len(atoms)
    first = np.zeros(offset + 1, dtype=np.int64)
    np.cumsum(np.concatenate(counts), out=first[1:])
    return NeighborList(first, np.concatenate(neighbors), np.concatenate(shifts))
