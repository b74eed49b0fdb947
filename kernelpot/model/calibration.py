r"""Recalibration: from posterior standard deviations to intervals that hold.

The posterior describes noise and weights of a model that is never quite right; residuals
of structures left out are larger, or smaller, and have heavy tails. So for each quantity,
species and coverage p a factor is kept, the p quantile of :math:`|e| / s` over labels
left out (split conformal prediction with s as the scale [1]_): the interval of half-width
`factor * s` holds a new label of the same kind with probability p, whatever the
distribution.

A variance has two parts: what the data leave open, and novelty, what the sparse points do
not span. Within the data the former follows the errors much better; the latter is large
for every force, as sparse points pin down values rather than slopes. So
:math:`s^2 = v_\mathrm{open} + b^2 v_\mathrm{novel}` with the b of a few that makes
structures that no sparse point was chosen from most likely, 1 where there are too few of them
(novelty must have its say beyond the data, so b is at least a tenth).

Errors do not vanish where the posterior says that nothing is left open: a descriptor of
finite range and size leaves a rest. To the variance of a force component a constant is
added, a share of the mean over its species, the one that makes labels left out most likely.

References
----------
.. [1] Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, J. Am. Stat. Assoc. 113, 1094 (2018),
   section 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kernelpot.common.types import BoolArray, FloatArray, IntArray

# Coverages whose factors are kept; others are interpolated.
LEVELS = (0.5, 0.6827, 0.8, 0.9, 0.95, 0.99)
# Labels below which a species shares the factors of all species.
MINIMUM_LABELS = 100
# Standard deviations below this share of their root mean square are zero.
ZERO = 1e-3
# Key of the factors of all species together.
ALL = 0
# Labels of structures left out of the choice of sparse points that tell its weight.
MINIMUM_UNSEEN = 10
# Weights of novelty tried.
NOVELTY_WEIGHTS = (1.0, 0.5, 0.2, 0.1)
# Constant parts of a force's std tried, in units of the root mean square of its species.
FLOORS = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0)


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
        from scipy.special import ndtri  # which takes long to import

        gaussian = ndtri(0.5 * (1.0 + np.array(LEVELS)))
        wanted = ndtri(0.5 * (1.0 + level))
        return float(wanted * np.interp(wanted, gaussian, np.array(self.quantiles) / gaussian))


def novelty_weight(residual: FloatArray, open_: FloatArray, novelty: FloatArray) -> float:
    """The weight of novelty under which residuals are most likely.

    Parameters
    ----------
    residual : ndarray of shape (n,)
        Of labels whose environments were not among the sparse points.
    open_, novelty : ndarray of shape (n,)
        Parts of the standard deviation of each.

    Returns
    -------
    float
        One of `NOVELTY_WEIGHTS`, by the likelihood of a Laplace distribution (for its
        tails) of the best scale.
    """
    used = informative(np.hypot(open_, novelty))

    def log_loss(weight: float) -> float:
        std = np.hypot(open_, weight * novelty)
        ratio = np.abs(residual[used]) / std[used]
        return float(np.log(max(ratio.mean(), 1e-300)) + np.log(std[used]).mean())

    if not used.any():
        return 1.0
    return min(NOVELTY_WEIGHTS, key=log_loss)


def floors(residual: FloatArray, std: FloatArray, numbers: IntArray) -> dict[int, float]:
    """The constant part of the std of each species under which residuals are most likely.

    Parameters
    ----------
    residual, std : ndarray of shape (n,)
        Of labels left out; none of them zero by symmetry.
    numbers : ndarray of shape (n,)
        Atomic numbers.

    Returns
    -------
    dict of int to float
        One of `FLOORS` times the root mean square of each species, by the likelihood of
        Gaussians with the best scale of each.
    """
    own = {int(z): np.flatnonzero(numbers == z) for z in np.unique(numbers)}
    rms = {z: float(np.sqrt(np.mean(std[rows] ** 2))) for z, rows in own.items()}

    def log_loss(share: float) -> float:
        loss = 0.0
        for z, rows in own.items():
            widened = np.hypot(std[rows], share * rms[z])
            scale = np.sqrt(np.mean((residual[rows] / widened) ** 2))
            loss += len(rows) * np.log(max(scale, 1e-300)) + np.log(widened).sum()
        return float(loss)

    best = min(FLOORS, key=log_loss)
    return {z: best * value for z, value in rms.items()} if best else {}


def informative(std: FloatArray, typical: float | None = None) -> BoolArray:
    """Labels that are not zero by symmetry: what is left of those is rounding.

    Parameters
    ----------
    std : ndarray
        Standard deviations.
    typical : float, optional
        Their root mean square, if not that of all of these.

    Returns
    -------
    ndarray of bool
        Of the shape of `std`.
    """
    if typical is None:
        typical = float(np.sqrt(np.mean(std**2))) if std.size else 0.0
    return np.asarray(std > ZERO * typical)


@dataclass(frozen=True)
class Calibration:
    """Factors on posterior standard deviations.

    Attributes
    ----------
    factors : mapping of quantity to mapping of atomic number to Factors
        Quantities ``"energy"``, ``"forces"``, ``"stress"``; number 0 stands for all
        species together. Local energies have no labels: ``"energies"`` holds the factors
        of the forces on the same species with novelty in full, as local energies are
        looked at to find the unknown.
    n_structures : int
        Structures left out.
    novelty : mapping of quantity to float
        Weight of novelty (b above); 1 where it is not named.
    floor : mapping of atomic number to float
        Constant part of the std of a force component [eV/Å]; none where not named.
    """

    factors: Mapping[str, Mapping[int, Factors]]
    n_structures: int
    novelty: Mapping[str, float] = field(default_factory=dict)
    floor: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        residuals: Mapping[str, FloatArray],
        open_: Mapping[str, FloatArray],
        novelty: Mapping[str, FloatArray],
        numbers: Mapping[str, IntArray],
        n_structures: int,
        *,
        unseen: Mapping[str, BoolArray] | None = None,
    ) -> Calibration:
        """Calibrate.

        Parameters
        ----------
        residuals : mapping of quantity to ndarray of shape (n,)
            Of labels that were not fitted.
        open_, novelty : mapping of quantity to ndarray of shape (n,)
            Parts of the standard deviation of each: what the data leave open, what the
            sparse points do not span.
        numbers : mapping of quantity to ndarray of shape (n,)
            Atomic numbers of the labels, or zeros.
        n_structures : int
        unseen : mapping of quantity to ndarray of shape (n,), optional
            Whether the sparse points were chosen without the structure of a label; those
            alone tell the weight of novelty, which stays 1 where they are few.

        Returns
        -------
        Calibration
        """
        factors: dict[str, dict[int, Factors]] = {}
        weights: dict[str, float] = {}
        floor: dict[int, float] = {}
        for quantity, e in residuals.items():
            parts = open_[quantity], novelty[quantity]
            whole = np.hypot(*parts)
            used = informative(whole)
            if not used.any():
                continue
            new = np.zeros(len(e), bool) if unseen is None else unseen[quantity]
            if np.count_nonzero(new & used) >= MINIMUM_UNSEEN:
                weights[quantity] = novelty_weight(e[new], parts[0][new], parts[1][new])
            std = np.hypot(parts[0], weights.get(quantity, 1.0) * parts[1])[used]
            own = numbers[quantity][used]
            if quantity == "forces":
                factors["energies"] = _by_species(e[used] / whole[used], own)
                telling = new[used] if quantity in weights else np.ones(len(own), bool)
                floor = floors(e[used][telling], std[telling], own[telling])
                std = np.hypot(std, [floor.get(z, 0.0) for z in own.tolist()])
            factors[quantity] = _by_species(e[used] / std, own)
        return cls(factors, n_structures, weights, floor)

    def std(self, quantity: str, std: Any, novelty: Any, numbers: IntArray | None = None) -> Any:
        """Standard deviation with novelty weighted, to be multiplied by a factor.

        Parameters
        ----------
        quantity : {"energy", "forces", "stress"}
        std, novelty : float or ndarray
            Posterior standard deviation, and its part by novelty.
        numbers : ndarray of shape (n_atoms,), optional
            Atomic numbers of the rows of forces, which have a constant part as well
            (unless they are zero by symmetry).

        Returns
        -------
        float or ndarray
        """
        weight = self.novelty.get(quantity, 1.0)
        if weight != 1.0:
            std = np.sqrt(np.maximum(np.square(std) - (1 - weight**2) * np.square(novelty), 0.0))
        if quantity == "forces" and self.floor and numbers is not None:
            floor = np.array([self.floor.get(int(z), 0.0) for z in numbers])[:, None]
            std = np.where(std > ZERO * floor, np.hypot(std, floor), std)
        return std

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
        by_species = self.factors.get(quantity)
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
            "novelty": dict(self.novelty),
            "floor": {str(z): value for z, value in self.floor.items()},
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
        factors = {
            quantity: {
                int(z): Factors(tuple(f["quantiles"]), f["scale"], f["n_labels"])
                for z, f in by_species.items()
            }
            for quantity, by_species in data["factors"].items()
        }
        return cls(
            factors,
            data["n_structures"],
            data["novelty"],
            {int(z): value for z, value in data["floor"].items()},
        )


def _by_species(ratio: FloatArray, numbers: IntArray) -> dict[int, Factors]:
    """Factors of all labels, and of each species that has enough."""
    found = {ALL: Factors.of(ratio)}
    for z in np.unique(numbers[numbers > 0]):
        if np.count_nonzero(numbers == z) >= MINIMUM_LABELS:
            found[int(z)] = Factors.of(ratio[numbers == z])
    return found


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
