"""What a potential says about a structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    r"""Energy, forces and stress of a structure, with uncertainty where asked for.

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
        Posterior standard deviation of each local energy [eV]:
        :math:`v = k_{**} - |\phi|^2 + |R^{-\top} \phi|^2` with the prior variance
        :math:`k_{**} = \sum_t \delta_t^2` of its species, the whitened covariance
        :math:`\phi = T^\top k_*` with the sparse points, and the triangular factor of
        the fit, :math:`R^\top R = I + \Phi^\top \Lambda^{-1} \Phi`.
    spilling : ndarray of shape (n_atoms,) or None
        Share :math:`(k_{**} - |\phi|^2) / k_{**}` of the prior variance of a local
        energy that the sparse points do not span, 0 (known) to 1.
    energy_std : float or None
        Posterior standard deviation of the total energy [eV]: the same formula with
        :math:`\phi` summed over atoms and
        :math:`k_{**} = \sum_t \sum_{ij} k_t(p_i, p_j)` over pairs of atoms of the same
        species. Local energies are correlated: it is neither the sum nor the root of the
        summed squares of `energies_std`.
    forces_std : ndarray of shape (n_atoms, 3) or None
        Posterior standard deviation of each force component [eV/Å]: the same formula
        with :math:`\phi = -\sum_i T^\top \partial k(p_i) / \partial r` and
        :math:`k_{**} = \sum_t \sum_{ij} (\partial p_i / \partial r)^\top
        (\partial^2 k_t / \partial p_i \partial p_j^\top) (\partial p_j / \partial r)`
        over the environments that depend on the atom: its own and its neighbors'.
    stress_std : ndarray of shape (6,) or None
        Posterior standard deviation of each stress component [eV/Å^3]: as for forces,
        with strain in place of r, over all environments, divided by the volume. None
        without three-dimensional periodicity. A constant offset between the stress
        labels and the derivative of the energy is not part of it.
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
