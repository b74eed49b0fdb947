"""Finite differences of anything with `predict`: to check derivatives, yours or ours."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from ase import Atoms

from kernelpot.common.types import FloatArray
from kernelpot.data.system import VOIGT
from kernelpot.model.prediction import Prediction


class Predictor(Protocol):
    """Anything with the `predict` of a `KernelPotential`."""

    def predict(self, atoms: Atoms) -> Prediction:
        """Predict energy, forces and stress of a structure."""


def numerical_forces(potential: Predictor, atoms: Atoms, *, step: float = 1e-4) -> FloatArray:
    """Forces from central differences of the energy.

    Parameters
    ----------
    potential : Predictor
        A `KernelPotential`, or anything with its `predict`.
    atoms : ase.Atoms
        Not modified.
    step : float
        Displacement [Å].

    Returns
    -------
    ndarray of shape (n_atoms, 3)
        [eV/Å].
    """
    forces = np.empty((len(atoms), 3))
    for i in range(len(atoms)):
        for axis in range(3):
            energy = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, axis] += sign * step
                energy.append(potential.predict(moved).energy)
            forces[i, axis] = -(energy[0] - energy[1]) / (2 * step)
    return forces


def numerical_stress(potential: Predictor, atoms: Atoms, *, step: float = 1e-4) -> FloatArray:
    """Stress from central differences of the energy with respect to strain.

    Parameters
    ----------
    potential : Predictor
        A `KernelPotential`, or anything with its `predict`.
    atoms : ase.Atoms
        Periodic in three directions; not modified.
    step : float
        Strain.

    Returns
    -------
    ndarray of shape (6,)
        xx yy zz yz xz xy [eV/Å^3].
    """
    stress = np.empty(6)
    for k, (a, b) in enumerate(VOIGT):
        energy = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * step
            strain[b, a] += 0.5 * sign * step
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain)
            moved.positions = atoms.positions @ strain
            energy.append(potential.predict(moved).energy)
        stress[k] = (energy[0] - energy[1]) / (2 * step) / atoms.get_volume()
    return stress
