"""Baselines that a program gives for whole structures: dispersion, any ASE calculator."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from ase import Atoms

from kernelpot.common.types import FloatArray
from kernelpot.data.system import Contribution, System


class WholeStructureBaseline:
    """What such a baseline gets for nothing from its values for one structure (`_of`)."""

    # They find their own neighbors.
    r_cut: ClassVar[float] = 0.0
    local: ClassVar[bool] = False

    def _of(self, atoms: Atoms) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Energies of atoms less those of free ones, forces, and virial of a structure."""
        raise NotImplementedError

    @property
    def array_names(self) -> tuple[str, ...]:
        """Arrays of ``atoms.arrays`` that the term asks for: none."""
        return ()

    def check(self, atoms: Atoms, name: str) -> None:
        """Refuse nothing.

        Parameters
        ----------
        atoms : ase.Atoms
        name : str
            For messages.
        """

    def evaluate(self, system: System, result: Contribution) -> None:
        """Add energies, forces and virials of all structures.

        Parameters
        ----------
        system : System
        result : Contribution
            Changed in place; atoms have the energies that the program gives them, or equal
            shares.
        """
        first = system.first_atom
        for s, atoms in enumerate(system.structures):
            own = slice(first[s], first[s + 1])
            energies, forces, virial = self._of(atoms)
            result.energies[own] += energies
            result.forces[own] += forces
            result.virials[s] += virial

    def pair_energy(self, r: FloatArray, z1: int, z2: int) -> tuple[FloatArray, FloatArray]:
        """Energy of a dimer and its derivative, less the free atoms.

        Parameters
        ----------
        r : ndarray of shape (n,)
            Distances [Å].
        z1, z2 : int
            Atomic numbers, in any order.

        Returns
        -------
        energy, derivative : ndarray of shape (n,)
            [eV] and [eV/Å].
        """
        value, slope = np.zeros(len(r)), np.zeros(len(r))
        pair = [min(z1, z2), max(z1, z2)]
        for k, distance in enumerate(r):
            energies, forces, _ = self._of(Atoms(pair, [[0, 0, 0], [0, 0, float(distance)]]))
            value[k], slope[k] = energies.sum(), -forces[1, 2]
        return value, slope
