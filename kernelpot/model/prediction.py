"""What a potential says about a structure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from kernelpot.common.compare import ComparesArrays
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.model.calibration import Calibration, Interval

ReturnStd = bool | Literal["local"]


@dataclass(frozen=True, eq=False)
class Prediction(ComparesArrays):
    r"""Energy, forces and stress of a structure, with uncertainty where asked for.

    Names, units and signs are ASE's. A field is None where it was not asked for or is
    not defined. Two predictions are equal if all their numbers are.

    Parameters
    ----------
    energy : float
        Total energy [eV].
    energies : ndarray of shape (n_atoms,)
        Its additive parts [eV].
    forces : ndarray of shape (n_atoms, 3)
        [eV/Å].
    stress : ndarray of shape (6,) or None
        xx yy zz yz xz xy [eV/Å^3], positive under tension: the derivative of the energy by
        a strain of cell and positions, over the volume. Of every structure whose cell has
        three vectors, slabs and molecules in a box included; None without.
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
        without a cell of three vectors. A constant offset between the stress
        labels and the derivative of the energy is not part of it.
    energy_novelty, forces_novelty, stress_novelty : as the above, or None
        The part of each standard deviation, in quadrature, that the sparse points do not
        span: :math:`\sqrt{k_{**} - |\phi|^2}`.
    penalty : ndarray of shape (n_atoms,) or None
        By what the safety net raises each local energy because its environment is not
        known [eV], if a gate was asked for.
    std_bound : ndarray of shape (n_atoms,) or None
        With a gate: local standard deviations, exact beyond those that count as known,
        elsewhere an upper bound below that [eV].
    stresses : ndarray of shape (n_atoms, 6) or None
        What each atom contributes to `stress`, their sum, if a calculator was asked for it
        [eV/Å^3]: pairs of atoms share alike.
    numbers : ndarray of shape (n_atoms,) or None
        Atomic numbers.
    calibration : Calibration or None
        What turns standard deviations into intervals (`interval`).
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
    energy_novelty: float | None = field(default=None, repr=False)
    forces_novelty: FloatArray | None = field(default=None, repr=False)
    stress_novelty: FloatArray | None = field(default=None, repr=False)
    penalty: FloatArray | None = None
    std_bound: FloatArray | None = None
    stresses: FloatArray | None = field(default=None, repr=False)
    numbers: IntArray | None = field(default=None, repr=False)
    calibration: Calibration | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """What is predicted as plain data, for JSON for example.

        Returns
        -------
        dict
            Fields by name: numbers, lists of them, or None; without the calibration.
        """
        return {
            f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "calibration"
        }

    def interval(self, level: float | None = 0.95) -> Interval:
        """Half-widths of intervals that hold a label with a given probability.

        Posterior standard deviations, with novelty weighted as it deserves (and a constant
        part in forces), times factors
        found on training structures left out one at a time. The sparse points were not
        chosen anew without each, so far from all data the intervals are too narrow: look
        at `spilling` there.

        Parameters
        ----------
        level : float or None, default=0.95
            Coverage between 0 and 1. None: calibrated standard deviations instead.

        Returns
        -------
        Interval
            As far as this prediction has standard deviations.

        Raises
        ------
        ValueError
            Without standard deviations, without a calibration, or if `level` is not
            between 0 and 1.
        """
        if self.energies_std is None:
            raise ValueError("no standard deviations: predict with return_std=True")
        if self.calibration is None or self.numbers is None:
            raise ValueError(
                "this model is not calibrated: fit with fit(calibrate=True) on at least ten "
                "structures"
            )
        found = self.calibration
        local = found.per_atom("energies", level, self.numbers)
        forces = found.per_atom("forces", level, self.numbers)
        energy, stress = (found.factor(kind, level) for kind in ("energy", "stress"))
        energy_std, forces_std, stress_std = (
            None
            if getattr(self, f"{kind}_std") is None
            else found.std(
                kind,
                getattr(self, f"{kind}_std"),
                getattr(self, f"{kind}_novelty"),
                self.numbers if kind == "forces" else None,
            )
            for kind in ("energy", "forces", "stress")
        )
        return Interval(
            level,
            None if energy is None or energy_std is None else float(energy * energy_std),
            None if local is None else local * self.energies_std,
            None if forces is None or forces_std is None else forces[:, None] * forces_std,
            None if stress is None or stress_std is None else stress * stress_std,
        )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
