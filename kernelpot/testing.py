"""Finite differences of anything with `predict`: to check derivatives, yours or ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from kernelpot.common.types import FloatArray
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
    return np.asarray(calculate_numerical_forces(_with_energies(atoms, potential), eps=step))


def numerical_stress(potential: Predictor, atoms: Atoms, *, step: float = 1e-4) -> FloatArray:
    """Stress from central differences of the energy with respect to strain.

    Parameters
    ----------
    potential : Predictor
        A `KernelPotential`, or anything with its `predict`.
    atoms : ase.Atoms
        With a cell of three vectors; not modified.
    step : float
        Strain.

    Returns
    -------
    ndarray of shape (6,)
        xx yy zz yz xz xy [eV/Å^3].
    """
    strained = _with_energies(atoms, potential)
    return np.asarray(calculate_numerical_stress(strained, eps=step, force_consistent=False))


class _Energies(Calculator):
    """The energies of a potential, and nothing else."""

    implemented_properties = ["energy"]

    def __init__(self, potential: Predictor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        self.results = {"energy": self._potential.predict(self.atoms).energy}


def _with_energies(atoms: Atoms, potential: Predictor) -> Atoms:
    """A free copy of the structure that has the energies of the potential."""
    copy = atoms.copy()
    copy.set_constraint()
    copy.calc = _Energies(potential)
    return copy
