"""What is found for a part of a structure, below every calculator."""

from __future__ import annotations

from dataclasses import dataclass

from kernelpot.common.types import BoolArray, FloatArray
from kernelpot.data.system import Contribution, System


@dataclass(frozen=True)
class RegionPrediction:
    """Energies of the centers of a region, and what they do to every atom of it.

    Added up over the regions of a structure, energies, forces (each atom's, whether center or
    ghost) and virials are those of the whole.

    Attributes
    ----------
    energies : ndarray of shape (n_centers,)
        [eV].
    forces : ndarray of shape (n_atoms, 3)
        Minus the derivative of their sum by the positions of centers and ghosts [eV/Å].
    virial : ndarray of shape (3, 3)
        Minus its derivative by strain [eV].
    energies_std : ndarray of shape (n_centers,) or None
        Calibrated standard deviations of the energies [eV], if asked for.
    penalty, std_bound : ndarray of shape (n_centers,) or None
        As in `Prediction`, with a gate [eV].
    """

    energies: FloatArray
    forces: FloatArray
    virial: FloatArray
    energies_std: FloatArray | None
    penalty: FloatArray | None
    std_bound: FloatArray | None
    system: System
    result: Contribution

    def atom_virials(self) -> FloatArray:
        """Share of every atom, ghosts included, in the virial: a pair gives half to either.

        Returns
        -------
        ndarray of shape (n_atoms, 3, 3)
            [eV].
        """
        return self.system.atom_virials(self.result)


@dataclass(frozen=True)
class Evaluated:
    """All that one evaluation of a system yields, before it is split into structures.

    Attributes
    ----------
    result : Contribution
        Energies and derivatives, free atoms and baseline included.
    forces : ndarray of shape (n_atoms, 3)
        [eV/Å].
    virials : list of ndarray of shape (3, 3)
        Of each structure [eV].
    std, spilling, penalty, bound, outside : ndarray of shape (n_atoms,) or None
        As in `Prediction`; the first is that of the posterior, the last says yes or no.
    """

    result: Contribution
    forces: FloatArray
    virials: list[FloatArray]
    std: FloatArray | None = None
    spilling: FloatArray | None = None
    penalty: FloatArray | None = None
    bound: FloatArray | None = None
    outside: BoolArray | None = None
