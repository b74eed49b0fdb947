r"""How errors depend on what the data leave open, where they do not simply go with it.

The open part of a label is multiplied by :math:`u^p`, with the root mean square of the open parts
of the forces around an atom relative to those of structures left out,

.. math:: u_i^2 = \frac{v_i + \sum_j w(r_{ij}) v_j}{1 + \sum_j w(r_{ij})} , \qquad
          v_i = \frac{|o_i|^2}{3 \langle o^2 \rangle_{z_i}} ,

since an environment that is badly known errs in the forces on all of its atoms; w falls
smoothly from one at distance zero to zero at the cutoff. Energies and stresses have the mean of v
over the structure. Two cases are known (``benchmarks/uncertainty/README.md``):

A whole quadratic form errs by what it has no monomials for, to leading order those of the third
degree, while what the data leave open of it grows as its own, of the second: errors go as the
power 3/2 of the open part, p = 1/2.

Kernels on sparse points need no such factor where more is open than is typical: there it grows as
errors do. Where less is, as in crystals near rest beside liquids of the same data, errors of forces
may fall less than it does: p, of u < 1 alone, is what residuals of structures left out are most
likely with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernelpot.common.smoothstep import smoothstep
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import System

# Key of all species together.
ALL = 0
# Less than this of what is typical is zero, by symmetry.
FLOOR = 1e-3


@dataclass(frozen=True)
class Growth:
    """Factors on what the data leave open.

    Attributes
    ----------
    power : float
        p where more is open than is typical; of energy and stress everywhere.
    power_below : float
        p of forces where less is.
    r_cut : float
        Reach of an environment [Å].
    typical : mapping of atomic number to float
        Root mean square of the open part of a force component on structures left out, by
        species; number 0 stands for all [eV/Å].
    """

    power: float
    power_below: float
    r_cut: float
    typical: Mapping[int, float]

    @classmethod
    def of(
        cls,
        power: float,
        power_below: float,
        r_cut: float,
        open_: FloatArray,
        numbers: IntArray,
    ) -> Growth | None:
        """Take the open parts of structures left out as the unit.

        Parameters
        ----------
        power, power_below, r_cut : float
        open_ : ndarray of shape (n,)
            Of components of forces [eV/Å].
        numbers : ndarray of shape (n,)
            Atomic numbers.

        Returns
        -------
        Growth or None
            None where nothing is open.
        """
        typical = {ALL: _rms(open_)} if open_.size else {ALL: 0.0}
        for number in np.unique(numbers).tolist():
            typical[number] = _rms(open_[numbers == number]) or typical[ALL]
        return cls(power, power_below, r_cut, typical) if typical[ALL] else None

    def relative(self, open_: FloatArray, system: System) -> tuple[FloatArray, float]:
        """Squares of u.

        Parameters
        ----------
        open_ : ndarray of shape (n_atoms, 3)
            What the data leave open of the forces on one structure [eV/Å].
        system : System
            With all pairs to at least `r_cut`.

        Returns
        -------
        by_atom : ndarray of shape (n_atoms,)
        together : float
        """
        every = self.typical[ALL]
        unit = np.array([self.typical.get(z, every) for z in system.numbers.tolist()])
        own = np.mean(np.square(open_), axis=1) / unit**2
        weight = 1.0 - smoothstep(system.distances / self.r_cut)[0]
        centers, n = system.pairs.centers, len(own)
        around = np.bincount(centers, weight * own[system.pairs.neighbors], minlength=n)
        found = (own + around) / (1.0 + np.bincount(centers, weight, minlength=n))
        return found, float(own.mean())

    def of_forces(self, squares: FloatArray) -> FloatArray:
        """Factors of atoms, from the squares of u."""
        powers = np.where(squares > 1.0, self.power, self.power_below)
        return np.asarray(np.maximum(squares, FLOOR**2) ** (0.5 * powers))

    def factors(self, open_: FloatArray, system: System) -> tuple[FloatArray, float]:
        """Factors of one structure.

        Parameters
        ----------
        open_, system
            As in `relative`.

        Returns
        -------
        by_atom : ndarray of shape (n_atoms,)
            Of the forces.
        together : float
            Of energy and stress.
        """
        squares, mean = self.relative(open_, system)
        return self.of_forces(squares), max(mean, FLOOR**2) ** (0.5 * self.power)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "power": self.power,
            "power_below": self.power_below,
            "r_cut": self.r_cut,
            "typical": {str(z): value for z, value in self.typical.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Growth:
        """Restore `to_dict`."""
        typical = {int(z): float(value) for z, value in data["typical"].items()}
        powers = float(data["power"]), float(data["power_below"])
        return cls(*powers, float(data["r_cut"]), typical)


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
