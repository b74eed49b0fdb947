r"""Standard deviations of errors, found from structures left out.

The posterior describes noise and weights of a model that is right; errors of potentials come
from what their kernels cannot express (misspecification [1]_), are larger by a factor of up to
some tens, and have heavy tails. What the data leave open of a label,
:math:`o = |R^{-\top} \phi|`, tells very well where errors are large, though not how large. So
the error of a label against the reference method has the variance

.. math:: s^2 = a^2 o^2 + c^2

with a scale a and a constant part c (a descriptor of finite range and size leaves a rest
everywhere), for each quantity and, for forces, each species: those under which residuals of
training structures, left out one at a time, are most likely under a distribution of heavy
tails (``benchmarks/uncertainty/README.md`` compares it with others). Errors of whole quadratic
forms outgrow o, which is then multiplied by a factor (`kernelpot.model.growth`).

Novelty, what the sparse points do not span of a local energy, ranks no errors within the data,
and beyond them the open part grows by itself - as long as there are sparse points that have
something in common with an environment. Where there are none, nothing is open and everything
unknown. So the *excess* of the spilling of an atom over that of held-out structures adds its
share of the prior variance: zero within the data, all of it for what is like nothing in them.

Intervals take the quantiles of :math:`|e| / s` over the same labels (split conformal prediction
with s as the scale [2]_): a half-width of ``quantile * s`` holds a new label of the same kind
with the probability asked for, whatever the distribution.

References
----------
.. [1] Swinburne, Perez, Mach. Learn.: Sci. Technol. 6, 015008 (2025); arXiv:2402.01810.
.. [2] Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, J. Am. Stat. Assoc. 113, 1094 (2018),
   section 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kernelpot.common.compare import ComparesArrays
from kernelpot.common.types import BoolArray, FloatArray, IntArray
from kernelpot.model.growth import ALL, Growth

# Coverages whose quantiles are kept; others are interpolated.
LEVELS = (0.5, 0.6827, 0.8, 0.9, 0.95, 0.99)
# Labels below which a species shares what was found for all species.
MINIMUM_LABELS = 100
# Standard deviations below this share of their root mean square are zero.
ZERO = 1e-3
# Degrees of freedom of the Student distribution under which residuals are to be likely.
TAILS = 4.0
# Constant parts tried, in units of the root mean square of the open part; and none.
SHARES = np.geomspace(1e-3, 1e3, 25)


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


def log_loss(residual: FloatArray, std: FloatArray, tails: float = np.inf) -> float:
    """Negative log-likelihood of residuals under the best common factor on their scales.

    Parameters
    ----------
    residual : ndarray of shape (n,)
    std : ndarray of shape (n,)
        Scales of the distributions, positive.
    tails : float
        Degrees of freedom of a Student distribution; infinite for a Gaussian.

    Returns
    -------
    float
        Mean over the residuals, but for a constant.
    """
    square = (residual / std) ** 2
    factor = float(square.mean())
    if factor == 0.0:
        return -np.inf
    if np.isinf(tails):
        return float(0.5 * np.log(factor) + np.log(std).mean())
    for _ in range(200):  # expectation maximization; converges monotonously
        weight = (tails + 1.0) / (tails + square / factor)
        factor, last = float(np.mean(weight * square)), factor
        if abs(factor - last) <= 1e-10 * last:
            break
    tail = 0.5 * (tails + 1.0) * np.log1p(square / (tails * factor)).mean()
    return float(0.5 * np.log(factor) + np.log(std).mean() + tail)


@dataclass(frozen=True)
class ErrorModel:
    """Standard deviation of the errors of one quantity, by what the data leave open.

    Attributes
    ----------
    scale : float
        Factor on the open part.
    constant : float
        Constant part, in the unit of the labels.
    typical : float
        Root mean square of the open part: much less of it is zero, by symmetry.
    quantiles : tuple of float
        Of ``|residual| / std``, at `LEVELS`.
    n_labels : int
    """

    scale: float
    constant: float
    typical: float
    quantiles: tuple[float, ...]
    n_labels: int

    @classmethod
    def of(
        cls, residual: FloatArray, open_: FloatArray, grown: FloatArray | float = 1.0
    ) -> ErrorModel:
        """Find scale and constant part from labels left out.

        The standard deviation has the root mean square of the residuals, and is never less
        likely than the best constant one.

        Parameters
        ----------
        residual : ndarray of shape (n,)
            Of labels that were not fitted.
        open_ : ndarray of shape (n,)
            What the others leave open of each, positive.
        grown : ndarray of shape (n,) or float
            Factors on it.

        Returns
        -------
        ErrorModel
        """
        from scipy.optimize import minimize_scalar  # which takes long to import

        residual = np.abs(residual)
        typical = float(np.sqrt(np.mean(open_**2)))
        open_ = grown * open_
        unit = float(np.sqrt(np.mean(open_**2)))

        def loss(log_share: float) -> float:
            return log_loss(residual, np.hypot(open_, np.exp(log_share) * unit), TAILS)

        logs = np.log(SHARES)
        losses = np.array([loss(x) for x in logs])
        best = int(losses.argmin())
        bracket = logs[max(best - 1, 0)], logs[min(best + 1, len(logs) - 1)]
        refined = minimize_scalar(loss, bounds=bracket, method="bounded", options={"xatol": 1e-3})
        constants = [0.0, float(np.exp(refined.x)) * unit]
        tried = [log_loss(residual, np.hypot(open_, c), TAILS) for c in constants]
        scale, constant = 1.0, constants[int(np.argmin(tried))]
        std = np.hypot(open_, constant)
        if log_loss(residual, std) > log_loss(residual, np.full_like(open_, unit)):
            scale, constant = 0.0, unit
            std = np.full_like(open_, unit)
        factor = float(np.sqrt(np.mean((residual / std) ** 2)))
        n = len(residual)
        ratio = np.sort(residual / std) / max(factor, 1e-300)
        # the ceil((n + 1) p)-th smallest: p holds for a new label, however few these are
        ranks = np.minimum(np.ceil((n + 1) * np.array(LEVELS)).astype(int), n) - 1
        return cls(factor * scale, factor * constant, typical, tuple(map(float, ratio[ranks])), n)

    def std(self, open_: Any, factor: float = 1.0, grown: Any = 1.0) -> Any:
        """Standard deviation of errors.

        Parameters
        ----------
        open_ : float or ndarray
            What the data leave open.
        factor : float
            On the constant part.
        grown : float or ndarray
            Factor on the open part.

        Returns
        -------
        float or ndarray
            Zero where the open part is, by symmetry.
        """
        scaled = self.scale * grown * np.asarray(open_)
        found = np.hypot(scaled, factor * self.constant)
        return np.where(np.asarray(open_) > ZERO * self.typical, found, scaled)

    def at(self, level: float) -> float:
        """Half-width of an interval in units of the standard deviation.

        Parameters
        ----------
        level : float
            Coverage; between `LEVELS` relative to a Gaussian's.

        Returns
        -------
        float
        """
        from scipy.special import ndtri  # which takes long to import

        gaussian = ndtri(0.5 * (1.0 + np.array(LEVELS)))
        wanted = ndtri(0.5 * (1.0 + level))
        return float(wanted * np.interp(wanted, gaussian, np.array(self.quantiles) / gaussian))


@dataclass(frozen=True)
class Beyond:
    """Where novelty has a say, for the atoms of one species.

    Attributes
    ----------
    spilling : float
        The most that atoms of structures left out have.
    slope : float
        Prior standard deviation of a force component in units of that of the local energy
        [1/Å].
    strain : float
        That of a virial component in units of the sum of the variances of local energies.
    """

    spilling: float
    slope: float
    strain: float


@dataclass(frozen=True)
class Calibration:
    """Error models of all quantities.

    Attributes
    ----------
    models : mapping of quantity to mapping of atomic number to ErrorModel
        Quantities ``"energy"`` (of the total energy over the root of the number of atoms
        [eV]), ``"forces"`` [eV/Å], ``"stress"`` [eV/Å^3]; number 0 stands for all species
        together.
    n_structures : int
        Structures left out.
    spread : float
        Factor on what the data leave open of the weights in potentials that are drawn: the
        mean square of their forces (of energies without labels of forces) is then that of
        the standard deviations.
    beyond : mapping of atomic number to Beyond
    growth : Growth or None
        How errors outgrow the open part; None where they go with it.
    """

    models: Mapping[str, Mapping[int, ErrorModel]]
    n_structures: int
    spread: float = 1.0
    beyond: Mapping[int, Beyond] = field(default_factory=dict)
    growth: Growth | None = None

    @classmethod
    def of(
        cls,
        residuals: Mapping[str, FloatArray],
        open_: Mapping[str, FloatArray],
        numbers: Mapping[str, IntArray],
        n_structures: int,
        beyond: Mapping[int, Beyond] | None = None,
        growth: Growth | None = None,
        grown: Mapping[str, FloatArray] | None = None,
    ) -> Calibration:
        """Calibrate.

        Parameters
        ----------
        residuals : mapping of quantity to ndarray of shape (n,)
            Of labels that were not fitted, in the units of `models`.
        open_ : mapping of quantity to ndarray of shape (n,)
            What the other data leave open of each.
        numbers : mapping of quantity to ndarray of shape (n,)
            Atomic numbers of the labels, or zeros.
        n_structures : int
        beyond : mapping of atomic number to Beyond, optional
        growth : Growth, optional
        grown : mapping of quantity to ndarray of shape (n,), optional
            Its factor on the open part of each label.

        Returns
        -------
        Calibration
        """
        models: dict[str, dict[int, ErrorModel]] = {}
        spreads: dict[str, float] = {}
        for quantity, e in residuals.items():
            used = informative(open_[quantity])
            if not used.any():
                continue
            e, o, z = e[used], open_[quantity][used], numbers[quantity][used]
            g = np.ones(len(o)) if grown is None else grown[quantity][used]
            found = {ALL: ErrorModel.of(e, o, g)}
            for number in np.unique(z[z > 0]):
                own = z == number
                if np.count_nonzero(own) >= MINIMUM_LABELS:
                    found[int(number)] = ErrorModel.of(e[own], o[own], g[own])
            models[quantity] = found
            std = np.empty(len(o))
            for number in np.unique(z):
                own = z == number
                std[own] = found.get(int(number), found[ALL]).std(o[own], grown=g[own])
            spreads[quantity] = float(np.sqrt(np.mean(std**2) / np.mean(o**2)))
        spread = next((spreads[k] for k in ("forces", "energy", "stress") if k in spreads), 1.0)
        return cls(models, n_structures, spread, dict(beyond or {}), growth)

    def model(self, quantity: str, number: int = ALL) -> ErrorModel | None:
        """Error model of a quantity and species; None without labels of the quantity."""
        by_species = self.models.get(quantity)
        return None if by_species is None else by_species.get(int(number), by_species[ALL])

    def _beyond(self, number: int) -> Beyond:
        """Of a species; one that no structure left out has is unknown wherever it spills."""
        if number in self.beyond or not self.beyond:
            return self.beyond.get(number, Beyond(1.0, 0.0, 0.0))
        return Beyond(
            0.0,
            max(own.slope for own in self.beyond.values()),
            max(own.strain for own in self.beyond.values()),
        )

    def excess(self, spilling: FloatArray, prior: FloatArray, numbers: IntArray) -> FloatArray:
        """Variance of local energies that are like nothing in the data.

        Parameters
        ----------
        spilling, prior : ndarray of shape (n_atoms,)
            Share of the prior variance that the sparse points do not span, and the prior
            variance [eV^2].
        numbers : ndarray of shape (n_atoms,)
            Atomic numbers.

        Returns
        -------
        ndarray of shape (n_atoms,)
            [eV^2]; zero where the spilling is that of held-out structures.
        """
        known = np.array([self._beyond(z).spilling for z in numbers.tolist()])
        return np.asarray(np.maximum(spilling - known, 0.0) * prior)

    def std(
        self,
        quantity: str,
        open_: Any,
        numbers: IntArray,
        excess: FloatArray | None = None,
        volume: float = np.inf,
        grown: FloatArray | float = 1.0,
    ) -> Any:
        """Standard deviation of the errors of a structure.

        Parameters
        ----------
        quantity : {"energy", "forces", "stress", "energies"}
        open_ : float or ndarray
            What the data leave open: of the energy [eV], of the forces, shape (n_atoms, 3),
            or of the stress; of local energies, shape (n_atoms,), their posterior standard
            deviation.
        numbers : ndarray of shape (n_atoms,)
            Atomic numbers of the structure.
        excess : ndarray of shape (n_atoms,), optional
            Of `excess`; local energies have it in their posterior standard deviation.
        volume : float
            [Å^3]
        grown : float or ndarray of shape (n_atoms,)
            Of `growth`: for forces, or energy and stress.

        Returns
        -------
        float or ndarray
            Where there were no labels of the quantity to calibrate with, the open part times
            `spread`. Local energies have no labels: their std has the scale of the forces on
            the same species.
        """
        if quantity == "energies":
            return open_ * self.local_scale(numbers)
        std = self._within(quantity, open_, numbers, grown)
        if excess is None or not excess.any():
            return std
        slope, strain = (
            np.array([getattr(self._beyond(z), name) for z in numbers.tolist()])
            for name in ("slope", "strain")
        )
        if quantity == "energy":
            return float(np.hypot(std, np.sqrt(excess.sum())))
        if quantity == "forces":
            return np.hypot(std, (slope * np.sqrt(excess))[:, None])
        return np.hypot(std, np.sqrt(np.sum(strain**2 * excess)) / volume)

    def _within(
        self, quantity: str, open_: Any, numbers: IntArray, grown: FloatArray | float
    ) -> Any:
        """Standard deviation of labels that no novelty adds to."""
        if quantity not in self.models:
            return open_ * self.spread
        if quantity == "forces":
            std = np.empty_like(open_)
            factors = np.broadcast_to(grown, len(numbers))[:, None]
            for z in np.unique(numbers):
                found, own = self.model(quantity, int(z)), numbers == z
                assert found is not None
                std[own] = found.std(open_[own], grown=factors[own])
            return std
        found = self.model(quantity)
        assert found is not None
        if quantity == "energy":
            return float(found.std(open_, np.sqrt(len(numbers)), grown))
        return found.std(open_, grown=grown)

    def local_scale(self, numbers: IntArray) -> FloatArray:
        """Factor on the posterior standard deviation of local energies, shape (n_atoms,)."""
        found = [self.model("forces", int(z)) for z in numbers]
        return np.array([self.spread if m is None or not m.scale else m.scale for m in found])

    def half_width(self, quantity: str, level: float | None, number: int = ALL) -> float | None:
        """Half-width of an interval in units of the standard deviation.

        Parameters
        ----------
        quantity : {"energy", "forces", "stress", "energies"}
        level : float or None
            Coverage, or None for one standard deviation.
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
        found = self.model("forces" if quantity == "energies" else quantity, number)
        if found is None:
            return None
        return 1.0 if level is None else found.at(level)

    def per_atom(self, quantity: str, level: float | None, numbers: IntArray) -> FloatArray | None:
        """`half_width` for each atom, shape (n_atoms,)."""
        kinds = {int(z): self.half_width(quantity, level, int(z)) for z in np.unique(numbers)}
        if None in kinds.values():
            return None
        return np.array([kinds[int(z)] for z in numbers], dtype=float)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "levels": list(LEVELS),
            "n_structures": self.n_structures,
            "spread": self.spread,
            "growth": None if self.growth is None else self.growth.to_dict(),
            "beyond": {
                str(z): {"spilling": own.spilling, "slope": own.slope, "strain": own.strain}
                for z, own in self.beyond.items()
            },
            "models": {
                quantity: {
                    str(z): {
                        "scale": found.scale,
                        "constant": found.constant,
                        "typical": found.typical,
                        "quantiles": list(found.quantiles),
                        "n_labels": found.n_labels,
                    }
                    for z, found in by_species.items()
                }
                for quantity, by_species in self.models.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Restore `to_dict`."""
        models = {
            quantity: {
                int(z): ErrorModel(
                    float(found["scale"]),
                    float(found["constant"]),
                    float(found["typical"]),
                    tuple(found["quantiles"]),
                    int(found["n_labels"]),
                )
                for z, found in by_species.items()
            }
            for quantity, by_species in data["models"].items()
        }
        beyond = {
            int(z): Beyond(float(own["spilling"]), float(own["slope"]), float(own["strain"]))
            for z, own in data["beyond"].items()
        }
        growth = data.get("growth")  # files of earlier versions have none
        return cls(
            models,
            int(data["n_structures"]),
            float(data["spread"]),
            beyond,
            None if growth is None else Growth.from_dict(growth),
        )


@dataclass(frozen=True, eq=False, repr=False)
class Interval(ComparesArrays):
    """Half-widths of calibrated intervals; None where the prediction has no std.

    Attributes
    ----------
    level : float or None
        Coverage; None for standard deviations.
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
