"""The list of neighbors of LAMMPS' ``pair_style zero R full``, as pairs sorted by center."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data import _pairs

# Neighbors carry in their upper bits what special_bonds says of the pair.
_INDEX = 0x1FFFFFFF
# Pairs nearer than this to the cutoff are not looked for in the check of a list [Å].
_MARGIN = 1e-6


@dataclass(frozen=True)
class PairList:
    """Pairs of a process's own atoms with all atoms it knows.

    Attributes
    ----------
    first : ndarray of shape (n_own + 1,)
        Pairs of atom ``i`` are ``first[i] .. first[i + 1] - 1``.
    neighbors : ndarray of shape (n_pairs,)
    n_atoms : int
        Own atoms and ghosts.
    """

    first: IntArray
    neighbors: IntArray
    n_atoms: int

    @property
    def n_own(self) -> int:
        """Number of own atoms."""
        return len(self.first) - 1

    def displacements(self, positions: FloatArray) -> FloatArray:
        """Vectors from center to neighbor [Å], shape (n_pairs, 3)."""
        found = np.empty((len(self.neighbors), 3))
        _pairs.between(self.first, self.neighbors, positions, found)
        return found

    def check(self, positions: FloatArray, r_cut: float, tags: IntArray) -> None:
        """Compare with a search of its own.

        Parameters
        ----------
        positions : ndarray of shape (n_atoms, 3)
            [Å].
        r_cut : float
            [Å].
        tags : ndarray of shape (n_atoms,)
            Names of the atoms.

        Raises
        ------
        ValueError
            If there are pairs that the list has not.
        """
        if not self.n_own:
            return
        reach = r_cut - _MARGIN
        own = positions[: self.n_own]
        there = cKDTree(positions).query_ball_point(own, reach, return_length=True) - 1
        distances = np.linalg.norm(self.displacements(positions), axis=1)
        centers = np.repeat(np.arange(self.n_own), np.diff(self.first))
        listed = np.bincount(centers[distances <= reach], minlength=self.n_own)
        wrong = np.flatnonzero(there != listed)
        if len(wrong):
            atom = int(wrong[0])
            raise ValueError(
                f"LAMMPS' list of neighbors has {listed[atom]} within {r_cut:.2f} Å of atom "
                f"{tags[atom]}, where there are {there[atom]}, and likewise of {len(wrong)} "
                "atoms: forces would be wrong. neigh_modify exclude, special_bonds other than "
                "1 1 1, and a pair_style zero without `full` do that"
            )


def read_pairs(lmp: Any, n_own: int, n_atoms: int) -> PairList:
    """Copy the present list.

    Parameters
    ----------
    lmp : lammps.lammps
        In a step in which the list is new.
    n_own, n_atoms : int
        Own atoms of this process, and these with its ghosts.

    Raises
    ------
    ValueError
        If ``pair_style zero`` is no longer there, or its list is of other atoms.
    """
    index = lmp.find_pair_neighlist("zero")
    if index < 0:
        raise ValueError(
            "LAMMPS has no list of neighbors for kernelpot: the pair style was changed after "
            "kernelpot was attached"
        )
    handle, get = lmp.lmp, lmp.lib.lammps_neighlist_element_neighbors
    n_listed = lmp.lib.lammps_neighlist_num_elements(handle, index)
    if n_listed != n_own:
        raise ValueError(
            f"LAMMPS' list of neighbors has {n_listed} of {n_own} atoms: with hybrid styles, "
            "pair_coeff of kernelpot must be `* *`"
        )
    atom, count, pointer = ctypes.c_int(), ctypes.c_int(), ctypes.POINTER(ctypes.c_int)()
    refs = ctypes.byref(atom), ctypes.byref(count), ctypes.byref(pointer)
    counts = np.zeros(n_own, dtype=np.int64)
    parts = [b""] * n_own
    size = ctypes.sizeof(ctypes.c_int)
    for element in range(n_own):
        get(handle, index, element, *refs)
        counts[atom.value] = count.value
        if count.value:
            parts[atom.value] = ctypes.string_at(pointer, size * count.value)
    neighbors = np.frombuffer(b"".join(parts), dtype=np.intc).astype(np.int64) & _INDEX
    first = np.zeros(n_own + 1, dtype=np.int64)
    np.cumsum(counts, out=first[1:])
    return PairList(first, neighbors, n_atoms)
