"""What a potential says about a structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa

from kernelpot.common.cards import card, grid
from kernelpot.common.compare import ComparesArrays
from kernelpot.common.types import BoolArray, FloatArray, IntArray
from kernelpot.model.calibration import Calibration, Interval

ReturnStd = bool | Literal["local"]


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorStd(ComparesArrays):
    r"""Standard deviations of the posterior of one structure, in its parts.

    With :math:`\phi` the whitened covariance of a quantity with the sparse points,
    :math:`k_{**}` its prior variance and the triangular factor of the fit,
    :math:`R^\top R = I + \Phi^\top \Lambda^{-1} \Phi`, the variance is

    .. math:: v = k_{**} - |\phi|^2 + |R^{-\top} \phi|^2 .

    The difference is *novelty*, what the sparse points do not span; the last term is what
    the data leave *open*. Of a local energy :math:`\phi = T^\top k_*`; of the energy it is
    summed over atoms, with :math:`k_{**} = \sum_t \sum_{ij} k_t(p_i, p_j)` over pairs of
    atoms of the same species: local energies are correlated, and the std of their sum is
    neither the sum nor the root of the summed squares of theirs. Of forces and stresses,
    derivatives of both (`kernelpot.gp.posterior`).

    They describe noise and weights of a model that is right, not errors against the
    reference method: `Prediction` has the standard deviations of these.

    Parameters
    ----------
    energy_std, energy_open, energy_novelty : float
        Of the total energy, and its parts in quadrature [eV].
    forces_std, forces_open, forces_novelty : ndarray of shape (n_atoms, 3)
        [eV/Å].
    stress_std, stress_open, stress_novelty : ndarray of shape (6,) or None
        [eV/Å^3]; None without a cell of three vectors.
    energies_std, energies_open, energies_novelty : ndarray of shape (n_atoms,)
        Of the local energies [eV].
    """

    energy_std: float
    energy_open: float
    energy_novelty: float
    forces_std: FloatArray
    forces_open: FloatArray
    forces_novelty: FloatArray
    stress_std: FloatArray | None
    stress_open: FloatArray | None
    stress_novelty: FloatArray | None
    energies_std: FloatArray
    energies_open: FloatArray
    energies_novelty: FloatArray


@dataclass(frozen=True, eq=False, repr=False)
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
        Standard deviation of each local energy [eV]. Local energies have no labels: it is
        that of the posterior (`PosteriorStd`), scaled as those of forces on the species are.
    spilling : ndarray of shape (n_atoms,) or None
        Share :math:`(k_{**} - |\phi|^2) / k_{**}` of the prior variance of a local
        energy that the sparse points do not span, 0 (known) to 1.
    energy_std, forces_std, stress_std : float, ndarray of shape (n_atoms, 3) and (6,), or None
        Standard deviation of the error against the reference method, of the total energy
        [eV], of each force component [eV/Å] and of each stress component [eV/Å^3] (None
        without a cell of three vectors): :math:`s^2 = a^2 o^2 + c^2`. What the data
        leave open, o, is the spread of `kernelpot.model.uncertainty.N_MEMBERS` potentials drawn
        from the posterior (which tell it to 18 %); scale and constant part were found on
        structures left out (`kernelpot.model.calibration`). Of whole quadratic forms o counts
        to the power 3/2, and of forces where little is open possibly to one below 1
        (`kernelpot.model.growth`). A constant
        offset between the stress labels and the derivative of the energy is not part of it.
        **Not calibrated** where `calibration` is None (a model of fewer than ten
        structures, or fitted with ``calibrate=False``): they are then those of the
        posterior, `posterior`, which are too small by factors of up to some tens.
    penalty : ndarray of shape (n_atoms,) or None
        By what the safety net raises each local energy because its environment is not
        known [eV], if a gate was asked for.
    std_bound : ndarray of shape (n_atoms,) or None
        With a gate or ``return_std=True``: local standard deviations as the safety net sees
        them, exact beyond those that count as known, elsewhere an upper bound below that
        [eV].
    outside : ndarray of bool of shape (n_atoms,) or None
        With ``return_std=True``: atoms whose `std_bound` is larger than those of the data, so
        that standard deviations are extrapolations. The limit was found on held-out
        structures (``describe()["gate"]["std_known"]``); another is set by
        ``predict(..., gate=VarianceGate(std_known=...))``.
    stresses : ndarray of shape (n_atoms, 6) or None
        What each atom contributes to `stress`, their sum, if a calculator was asked for it
        [eV/Å^3]: pairs of atoms share alike.
    numbers : ndarray of shape (n_atoms,) or None
        Atomic numbers.
    charges : ndarray of shape (n_atoms,) or None
        Charges of the atoms, of a model that has learned them (`KernelCharges`) [e].
    dipole : ndarray of shape (3,) or None
        Their dipole about the center of mass, without periodicity [e Å].
    calibration : Calibration or None
        How standard deviations were calibrated, and what turns them into intervals
        (`interval`); None if they were not.
    find_posterior : callable or None
        What `posterior` calls.
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
    penalty: FloatArray | None = None
    std_bound: FloatArray | None = None
    outside: BoolArray | None = None
    stresses: FloatArray | None = field(default=None, repr=False)
    numbers: IntArray | None = field(default=None, repr=False)
    charges: FloatArray | None = field(default=None, repr=False)
    dipole: FloatArray | None = field(default=None, repr=False)
    calibration: Calibration | None = field(default=None, repr=False, compare=False)
    find_posterior: Callable[[], PosteriorStd] | None = field(
        default=None, repr=False, compare=False
    )

    @cached_property
    def posterior(self) -> PosteriorStd:
        """Standard deviations of the posterior itself, computed when they are looked at.

        They cost as much as training rows, some hundred times a prediction. Copies in other
        processes and files do not have them.

        Raises
        ------
        ValueError
            Without standard deviations, and of a copy.
        """
        if self.find_posterior is None:
            raise ValueError(
                "no way to the posterior: predict with return_std=True (copies in files and "
                "other processes have lost it)"
            )
        return self.find_posterior()

    def __repr__(self) -> str:
        """Say what was predicted in one line."""
        return f"Prediction({', '.join(f'{name} {value}' for name, value in self._facts())})"

    def _repr_html_(self) -> str:
        """Show it in a notebook, atom by atom."""
        columns: dict[str, list[str]] = {}
        if self.numbers is not None:
            columns["atom"] = [f"{chemical_symbols[z]} {k}" for k, z in enumerate(self.numbers)]
        columns["energy [eV]"] = _with_std(self.energies, self.energies_std, 4)
        std = None if self.forces_std is None else np.linalg.norm(self.forces_std, axis=1)
        columns["force [eV/Å]"] = _with_std(np.linalg.norm(self.forces, axis=1), std, 4)
        if self.penalty is not None:
            columns["penalty of the net [eV]"] = [f"{p:.4f}" for p in self.penalty]
        if self.outside is not None:
            columns["outside the data"] = ["yes" if out else "" for out in self.outside]
        rows = list(zip(*columns.values(), strict=True))
        return card("Prediction", self._facts(), grid(list(columns), rows, at_most=12))

    def _facts(self) -> list[tuple[str, str]]:
        """Names and values with units."""
        energy = _with_std([self.energy], [self.energy_std], 5)[0]
        facts = [("energy", f"{energy} eV"), ("of", f"{len(self.energies)} atoms")]
        if len(self.forces):
            worst = int(np.argmax(np.linalg.norm(self.forces, axis=1)))
            facts.append(
                ("largest force", f"{np.linalg.norm(self.forces[worst]):.4f} eV/Å on atom {worst}")
            )
        if self.stress is not None:
            facts.append(("pressure", f"{-float(self.stress[:3].mean()) / GPa:.3f} GPa"))
        if self.forces_std is not None:
            facts.append(("largest std of a force", f"{float(self.forces_std.max()):.4f} eV/Å"))
        if self.energies_std is not None:
            facts.append(("largest local std", f"{float(self.energies_std.max()):.4f} eV"))
        if self.outside is not None:
            facts.append(("outside the data", f"{int(self.outside.sum())} atoms"))
        if self.penalty is not None:
            facts.append(("raised by the net", f"{float(self.penalty.sum()):.4f} eV"))
        if self.energies_std is not None and self.calibration is None:
            facts.append(("standard deviations", "NOT calibrated"))
        return facts

    def __getstate__(self) -> dict[str, Any]:
        """Fields, without the way back to the model."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"find_posterior": None}

    def to_dict(self) -> dict[str, Any]:
        """What is predicted as plain data, for JSON for example.

        Returns
        -------
        dict
            Fields by name: numbers, lists of them, or None; without the calibration.
        """
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in _TIES}

    def interval(self, level: float | None = 0.95) -> Interval:
        """Half-widths of intervals that hold a label with a given probability.

        Standard deviations times quantiles of :math:`|e| / s` over training structures
        left out: errors have heavier tails than a Gaussian, and a standard deviation holds
        somewhat more of them than 68 %. These are the widths to publish for a coverage;
        the standard deviations are for whatever propagates variances.

        Parameters
        ----------
        level : float or None, default=0.95
            Coverage between 0 and 1. None: standard deviations instead.

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
        widths: dict[str, Any] = {}
        for kind in ("energy", "energies", "forces", "stress"):
            std = getattr(self, f"{kind}_std")
            if kind in ("energies", "forces"):
                factor: Any = found.per_atom(kind, level, self.numbers)
                if factor is not None and kind == "forces":
                    factor = factor[:, None]
            else:
                factor = found.half_width(kind, level)
            widths[kind] = None if std is None or factor is None else factor * std
        return Interval(level, **widths)


def _with_std(values: Any, stds: Any, digits: int) -> list[str]:
    """Numbers, with their standard deviations where there are any."""
    if stds is None:
        stds = [None] * len(values)
    return [
        f"{value:.{digits}f}" if std is None else f"{value:.{digits}f} ± {std:.{digits}f}"
        for value, std in zip(values, stds, strict=True)
    ]


# Fields that lead to the model.
_TIES = ("calibration", "find_posterior")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
