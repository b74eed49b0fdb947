r"""Recalibration: from posterior standard deviations to intervals that hold.

The posterior describes noise and weights of a model that is never quite right; residuals
of structures left out are larger, or smaller, and have heavy tails. So for each quantity,
species and coverage p a factor is kept, the p quantile of :math:`|e| / s` over labels
left out (split conformal prediction with s as the scale [1]_): the interval of half-width
`factor * s` holds a new label of the same kind with probability p, whatever the
distribution.

References
----------
.. [1] Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, J. Am. Stat. Assoc. 113, 1094 (2018),
   section 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Coverages whose factors are kept; others are interpolated.
LEVELS = (0.5, 0.6827, 0.8, 0.9, 0.95, 0.99)
# Labels below which a species shares the factors of all species.
MINIMUM_LABELS = 100
# Standard deviations below this share of their root mean square are zero.
ZERO = 1e-3
# Key of the factors of all species together.
ALL = 0
QUANTITIES = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Factors:
    """Factors on the standard deviation of one quantity.

    Attributes
    ----------
    quantiles : tuple of float
        Of ``|residual| / std``, at `LEVELS`.
    scale : float
        Root mean square of the same: the factor for a Gaussian with these tails.
    n_labels : int
    """

    quantiles: tuple[float, ...]
    scale: float
    n_labels: int

    @classmethod
    def of(cls, ratio: FloatArray) -> Factors:
        """Factors from residuals over standard deviations."""
        ratio = np.sort(np.abs(ratio))
        n = len(ratio)
        # the ceil((n + 1) p)-th smallest: p holds for a new label, however few these are
        ranks = np.minimum(np.ceil((n + 1) * np.array(LEVELS)).astype(int), n) - 1
        return cls(tuple(map(float, ratio[ranks])), float(np.sqrt(np.mean(ratio**2))), n)

    def at(self, level: float) -> float:
        """Factor for a coverage; between levels relative to a Gaussian's."""
        gaussian = norm.ppf(0.5 * (1.0 + np.array(LEVELS)))
        wanted = norm.ppf(0.5 * (1.0 + level))
        return float(wanted * np.interp(wanted, gaussian, np.array(self.quantiles) / gaussian))


@dataclass(frozen=True)
class Calibration:
    """Factors on posterior standard deviations.

    Attributes
    ----------
    factors : mapping of quantity to mapping of atomic number to Factors
        Quantities ``"energy"``, ``"forces"``, ``"stress"``; number 0 stands for all
        species together. Local energies have no labels: they take the factors of the
        forces on the same species.
    n_structures : int
        Structures left out.
    """

    factors: Mapping[str, Mapping[int, Factors]]
    n_structures: int

    @classmethod
    def of(
        cls,
        residuals: Mapping[str, FloatArray],
        std: Mapping[str, FloatArray],
        numbers: Mapping[str, IntArray],
        n_structures: int,
    ) -> Calibration:
        """Calibrate.

        Parameters
        ----------
        residuals, std : mapping of quantity to ndarray of shape (n,)
            Of labels that were not fitted.
        numbers : mapping of quantity to ndarray of shape (n,)
            Atomic numbers of the labels, or zeros.
        n_structures : int

        Returns
        -------
        Calibration
        """
        factors: dict[str, dict[int, Factors]] = {}
        for quantity, e in residuals.items():
            # zero by symmetry: what is left of the residual is rounding of the label
            used = std[quantity] > ZERO * np.sqrt(np.mean(std[quantity] ** 2))
            if not used.any():
                continue
            ratio = e[used] / std[quantity][used]
            own = numbers[quantity][used]
            found = {ALL: Factors.of(ratio)}
            for z in np.unique(own[own > 0]):
                if np.count_nonzero(own == z) >= MINIMUM_LABELS:
                    found[int(z)] = Factors.of(ratio[own == z])
            factors[quantity] = found
        return cls(factors, n_structures)

    def factor(self, quantity: str, level: float | None, number: int = ALL) -> float | None:
        """Factor on a standard deviation.

        Parameters
        ----------
        quantity : {"energy", "forces", "stress", "energies"}
        level : float or None
            Coverage, or None for the Gaussian scale.
        number : int
            Atomic number.

        Returns
        -------
        float or None
            None without labels to calibrate with.

        Raises
        ------
        ValueError
            If `level` is not between 0 and 1.
        """
        if level is not None and not 0.0 < level < 1.0:
            raise ValueError(f"`level` must be between 0 and 1, such as 0.95, got {level!r}")
        by_species = self.factors.get("forces" if quantity == "energies" else quantity)
        if by_species is None:
            return None
        found = by_species.get(int(number), by_species[ALL])
        return found.scale if level is None else found.at(level)

    def per_atom(self, quantity: str, level: float | None, numbers: IntArray) -> FloatArray | None:
        """Factor of each atom, shape (n_atoms,)."""
        kinds = {int(z): self.factor(quantity, level, int(z)) for z in np.unique(numbers)}
        if None in kinds.values():
            return None
        return np.array([kinds[int(z)] for z in numbers], dtype=float)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "levels": list(LEVELS),
            "n_structures": self.n_structures,
            "factors": {
                quantity: {
                    str(z): {
                        "quantiles": list(f.quantiles),
                        "scale": f.scale,
                        "n_labels": f.n_labels,
                    }
                    for z, f in by_species.items()
                }
                for quantity, by_species in self.factors.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Restore `to_dict`."""
        return cls(
            {
                quantity: {
                    int(z): Factors(tuple(f["quantiles"]), f["scale"], f["n_labels"])
                    for z, f in by_species.items()
                }
                for quantity, by_species in data["factors"].items()
            },
            data["n_structures"],
        )


@dataclass(frozen=True)
class Interval:
    """Half-widths of calibrated intervals; None where the prediction has no std.

    Attributes
    ----------
    level : float or None
        Coverage; None for Gaussian standard deviations.
    energy : float or None
        [eV].
    energies : ndarray of shape (n_atoms,) or None
        [eV].
    forces : ndarray of shape (n_atoms, 3) or None
        [eV/Å].
    stress : ndarray of shape (6,) or None
        [eV/Å^3].
    """

    level: float | None
    energy: float | None
    energies: FloatArray | None
    forces: FloatArray | None
    stress: FloatArray | None
