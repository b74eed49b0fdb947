"""What a potential says about a structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """Energy, forces and stress of a structure, with uncertainty where asked for.

    Names, units and signs are ASE's. A field is None where it was not asked for or is
    not defined.

    Parameters
    ----------
    energy : float
        Total energy [eV].
    energies : ndarray of shape (n_atoms,)
        Its additive parts [eV].
    forces : ndarray of shape (n_atoms, 3)
        [eV/Å].
    stress : ndarray of shape (6,) or None
        xx yy zz yz xz xy [eV/Å^3], positive under tension; None without
        three-dimensional periodicity.
    energies_std : ndarray of shape (n_atoms,) or None
        Posterior standard deviation of each local energy [eV].
    spilling : ndarray of shape (n_atoms,) or None
        Share of the prior variance that the sparse points do not span, 0 (known) to 1.
    energy_std, forces_std, stress_std : None
        Reserved for the standard deviations of these; this version computes that of
        local energies only.
    gate_weights : ndarray of shape (n_atoms,) or None
        Share of the fallback in each local energy, 0 to 1, if a gate was asked for.
    std_bound : ndarray of shape (n_atoms,) or None
        With a gate: local standard deviations, exact where the gate has begun to close,
        elsewhere an upper bound below its threshold [eV].
    """

    energy: float
    energies: FloatArray
    forces: FloatArray
    stress: FloatArray | None
    energies_std: FloatArray | None = None
    spilling: FloatArray | None = None
    energy_std: float | None = None
    forces_std: FloatArray | None = None
    stress_std: FloatArray | None = None
    gate_weights: FloatArray | None = None
    std_bound: FloatArray | None = None
