r"""What is left of damped charges where another program sums bare ones.

Programs for molecular dynamics sum :math:`q_i q_j / r` over all pairs of a crystal, near and far,
and do it in parallel. `kernelpot.baseline.ewald` damps that at short range by
:math:`\mathrm{erf}(r / w)`: what is left is

.. math:: E(r) = -\frac{e^2}{4 \pi \epsilon_0} \, q_i q_j \, \frac{\mathrm{erfc}(r / w)}{r},

a pair function that has ended at six widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from ase.data import chemical_symbols

from kernelpot.baseline.coulomb import DAMPING_REACH
from kernelpot.baseline.ewald import Ewald
from kernelpot.baseline.pair_functions import COULOMB
from kernelpot.baseline.reference import BaselineTerm, Reference, add_pairs
from kernelpot.common.types import FloatArray
from kernelpot.data.dataset import Dataset
from kernelpot.data.system import Contribution, System


@dataclass(frozen=True)
class CoulombRemainder:
    """Damped charges less bare ones, pair by pair.

    Parameters
    ----------
    damped : Ewald
        With the charge of each species, and its widths.

    Raises
    ------
    ValueError
        If the charges are not those of species, or there are no widths yet.
    """

    damped: Ewald

    kind: ClassVar[str] = "coulomb_remainder"
    local: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse charges that differ from atom to atom, or are open."""
        if self.damped.widths is None:
            raise ValueError("the charges have no damping widths yet: fit the term, or give them")
        charges = self.damped.charges
        if not isinstance(charges, Mapping):
            raise ValueError(
                "what is left beside bare charges is known for charges per species; those of this "
                f"model are {charges!r}: those of each atom, or not fitted yet"
            )

    @property
    def charges(self) -> Mapping[str, float]:
        """Charge of each species [e]."""
        charges = self.damped.charges
        assert isinstance(charges, Mapping)
        return charges

    @property
    def r_cut(self) -> float:
        """Distance at which the damping has ended [Å]."""
        widths = self.damped.widths
        largest = max(widths.values(), default=0.0) if isinstance(widths, Mapping) else widths
        return DAMPING_REACH * float(largest or 0.0)

    def fit(self, data: Dataset, species: Sequence[int], known: Reference) -> CoulombRemainder:
        """Nothing is left open.

        Parameters
        ----------
        data : Dataset
        species : sequence of int
        known : Reference

        Returns
        -------
        CoulombRemainder
            The same.
        """
        return self

    def evaluate(self, system: System, result: Contribution) -> None:
        """Add energies and gradients of the pairs within reach.

        Parameters
        ----------
        system : System
        result : Contribution
            Changed in place; a pair's energy is shared half and half.
        """
        add_pairs(system, result, self.r_cut, self.pair_energy)

    def pair_energy(self, r: FloatArray, z1: int, z2: int) -> tuple[FloatArray, FloatArray]:
        """Energy of one pair and its derivative.

        Parameters
        ----------
        r : ndarray of shape (n,)
            Distances [Å].
        z1, z2 : int
            Atomic numbers.

        Returns
        -------
        energy, derivative : ndarray of shape (n,)
            [eV] and [eV/Å].
        """
        from scipy.special import erfc  # which takes long to import

        width = self.damped.width(z1, z2)
        if width == 0:
            return np.zeros_like(r), np.zeros_like(r)
        product = COULOMB * self.charges[chemical_symbols[z1]] * self.charges[chemical_symbols[z2]]
        x = r / width
        inside = x < DAMPING_REACH
        value = np.where(inside, erfc(x) / r, 0.0)
        slope = np.where(inside, 2.0 / (np.sqrt(np.pi) * width) * np.exp(-(x**2)), 0.0) + value
        return -product * value, product * slope / r

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        return {"kind": self.kind, "damped": self.damped.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CoulombRemainder:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        CoulombRemainder
        """
        return cls(Ewald.from_dict(data["damped"]))

    @classmethod
    def example(cls, species: Sequence[int]) -> CoulombRemainder:
        """Charges as in `Ewald.example` but larger, damped so widely that bonds feel it.

        Parameters
        ----------
        species : sequence of int
            Atomic numbers it will be used for.

        Returns
        -------
        CoulombRemainder
        """
        damped = Ewald.example(species)
        assert isinstance(damped.charges, Mapping)
        assert isinstance(damped.widths, Mapping)
        charges = {symbol: 5 * q for symbol, q in damped.charges.items()}
        widths = {pair: 5 * width for pair, width in damped.widths.items()}
        return cls(replace(damped, charges=charges, widths=widths))

    def describe(self) -> list[str]:
        """Return a heading and one line per fact, for reports.

        Returns
        -------
        list of str
        """
        return ["Damping of charges that another program sums:", *self.damped.describe()[1:]]


def beside_bare_charges(
    baseline: Sequence[BaselineTerm],
) -> tuple[list[BaselineTerm], dict[str, float]]:
    """Terms with what remains of damped charges in their place, and those charges.

    Parameters
    ----------
    baseline : sequence of BaselineTerm

    Returns
    -------
    terms : list of BaselineTerm
    charges : dict of symbol to float
        What another program must sum [e]; empty if the terms have no charges.

    Raises
    ------
    ValueError
        If the charges of a term are not those of species.
    """
    terms: list[BaselineTerm] = []
    charges: dict[str, float] = {}
    for term in baseline:
        if isinstance(term, Ewald):
            if charges:
                raise ValueError("two terms of the baseline have charges: nobody can sum them once")
            term = CoulombRemainder(term)
            charges = dict(term.charges)
        terms.append(term)
    return terms, charges
