"""Energies that depend on local energies and their variances, as the safety net's do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kernelpot.common.types import FloatArray
from kernelpot.data.system import Contribution, System


@dataclass(frozen=True)
class Blended:
    """Energies of a run of atoms that depend on local energies and variances.

    Attributes
    ----------
    energies : ndarray of shape (n_atoms,)
        [eV].
    by_energy, by_variance : ndarray of shape (n_atoms,)
        Their derivatives by local energy and variance.
    by_keep : ndarray of shape (n_atoms,) or None
        Their derivatives by what else they depend on (the factors of `Blend.pull`).
    added : ndarray of shape (n_atoms,) or None
        What was added because of the variances [eV].
    """

    energies: FloatArray
    by_energy: FloatArray
    by_variance: FloatArray
    by_keep: FloatArray | None = None
    added: FloatArray | None = None


class Blend(Protocol):
    """An energy that depends on local energies and variances."""

    @property
    def gauge_fixed(self) -> bool:
        """Whether its variances are those of `LocalModel.gauge_fixed`."""

    def irrelevant_below(self, species: int) -> float:
        """Variance of an atom of a species below which its value does not matter [eV^2]."""

    def __call__(self, atoms: slice, energies: FloatArray, variances: FloatArray) -> Blended:
        """Energies of a run of atoms, and their derivatives.

        Variances are exact, or upper bounds not above `irrelevant_below`.
        """

    def pull(self, system: System, by_keep: FloatArray, result: Contribution) -> None:
        """Add the derivative through what does not depend on local energies."""


class AsItIs:
    """The energy itself, of which the exact variances a gate would see are wanted."""

    gauge_fixed = True

    def irrelevant_below(self, species: int) -> float:
        """Nothing is irrelevant."""
        return -np.inf

    def __call__(self, atoms: slice, energies: FloatArray, variances: FloatArray) -> Blended:
        """Energies as they are."""
        return Blended(energies, np.ones_like(energies), np.zeros_like(energies))

    def pull(self, system: System, by_keep: FloatArray, result: Contribution) -> None:
        """Depends on nothing else."""


class UpToKnown(AsItIs):
    """As `AsItIs`; variances of what is known well enough may be upper bounds.

    Parameters
    ----------
    known : ndarray of shape (n_species,)
        Standard deviation of a local energy up to which an atom counts as known [eV].
    """

    def __init__(self, known: FloatArray) -> None:
        self._known = known

    def irrelevant_below(self, species: int) -> float:
        """Whatever is known."""
        return float(self._known[species]) ** 2
