"""What makes a structure usable: finite numbers, a cell, atoms apart from each other."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.types import FloatArray
from kernelpot.data.neighbors import NeighborList, neighbor_list

# Closer than this, two atoms are taken to sit on one spot [Å].
COINCIDENCE = 0.05


def check_structure(atoms: Atoms, name: str) -> None:
    """Refuse a structure no potential can be evaluated for.

    Raises
    ------
    ValueError
        As `check_cell`, or if two atoms sit on one spot.
    """
    check_cell(atoms, name)
    pairs = neighbor_list(atoms, COINCIDENCE)
    check_distances(pairs, pairs.displacements(atoms.positions), name)


def bare_copy(atoms: Atoms) -> Atoms:
    """Numbers, positions, cell, periodicity, and one number per atom such as a charge."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for name, values in atoms.arrays.items():
        if values.ndim == 1 and values.dtype.kind in "fi" and name not in ("numbers", "tags"):
            bare.set_array(name, values)
    return bare


def check_distances(pairs: NeighborList, displacements: FloatArray, name: str) -> None:
    """Refuse pairs closer than `COINCIDENCE`, and positions that are not finite."""
    if not np.isfinite(displacements).all():
        pair = int(np.argwhere(~np.isfinite(displacements))[0, 0])
        raise ValueError(
            f"{name}: atoms {pairs.centers[pair]} and {pairs.neighbors[pair]} have no finite "
            "distance: a position is not finite"
        )
    close = np.flatnonzero(np.einsum("pc,pc->p", displacements, displacements) < COINCIDENCE**2)
    if len(close):
        i, j = int(pairs.centers[close[0]]), int(pairs.neighbors[close[0]])
        raise ValueError(
            f"{name}: atoms {i} and {j} sit on one spot (closer than {COINCIDENCE} Å); "
            "remove the duplicate or fix the cell"
        )


def check_cell(atoms: Atoms, name: str) -> None:
    """Refuse a structure for which no neighbors can be found.

    Raises
    ------
    ValueError
        Without atoms, with one that is no element, with a position that is not finite, a
        periodic direction without a cell vector, or a degenerate cell.
    """
    if len(atoms) == 0:
        raise ValueError(f"{name} has no atoms")
    numbers = atoms.numbers
    if numbers.min() < 1 or numbers.max() >= len(chemical_symbols):
        atom = int(np.argmax((numbers < 1) | (numbers >= len(chemical_symbols))))
        raise ValueError(
            f"{name}: atom {atom} is no chemical element (atomic number {numbers[atom]}, X for a "
            "ghost or a vacancy); remove it or correct its symbol"
        )
    if not np.isfinite(atoms.positions).all():
        atom = int(np.argwhere(~np.isfinite(atoms.positions))[0, 0])
        raise ValueError(f"{name}: position of atom {atom} is not finite")
    pbc = np.asarray(atoms.pbc, dtype=bool)
    if pbc.any():
        cell = np.asarray(atoms.cell)
        if not np.isfinite(cell).all():
            raise ValueError(f"{name}: the cell is not finite")
        missing = [axis for axis in range(3) if pbc[axis] and not cell[axis].any()]
        if missing:
            raise ValueError(
                f"{name}: periodic along {missing} but the cell has no vector there; "
                "set the cell or pbc=False"
            )
        if abs(np.linalg.det(np.array(atoms.cell.complete()))) < 1e-6:
            raise ValueError(f"{name}: the cell vectors are linearly dependent")


def finite(value: FloatArray, name: str, key: str) -> FloatArray:
    """Return the array, refuse one that is not finite."""
    if not np.isfinite(value).all():
        wrong = value[~np.isfinite(value)].flat[0]
        raise ValueError(f"{name}: {key} contains {wrong}; correct the label or remove the frame")
    return value
