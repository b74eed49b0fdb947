"""Predictions beside labels, and standard deviations beside errors, as numbers to draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import GPa
from scipy.stats import spearmanr

from kernelpot.common.types import FloatArray, Progress
from kernelpot.data.dataset import Dataset
from kernelpot.model.calibration import informative
from kernelpot.model.errors import coverage
from kernelpot.model.errors import reliability as gaussian_coverage
from kernelpot.model.prediction import Prediction
from kernelpot.plot.protocol import Potential

# Structures, and atoms of them, whose forces get a standard deviation (it costs some ten to
# fifteen times a prediction).
MAX_STD_STRUCTURES, MAX_STD_ATOMS = 60, 1000
# Equally populated bins of the predicted standard deviation.
N_BINS = 10
# Coverages that are looked at.
PROMISED = (0.05, *(k / 10 for k in range(1, 10)), 0.95, 0.99)
# Unit of each kind of label, as it is drawn.
UNITS = {"energy": "eV/atom", "forces": "eV/Å", "stress": "GPa"}


@dataclass(frozen=True)
class Reliability:
    """Predicted standard deviations of force components against errors.

    Attributes
    ----------
    std, error : ndarray of shape (n,)
        Predicted, and found [eV/Å].
    bin_std, bin_rmse : ndarray of shape (n_bins,)
        Root mean squares in bins of equal population.
    promised : ndarray of shape (n_levels,)
        Coverages that intervals promise.
    covered : ndarray of shape (n_levels,) or None
        Shares of errors within the intervals of `Prediction.interval`; None for a model
        that is not calibrated.
    covered_gaussian : ndarray of shape (n_levels,)
        Shares within as many standard deviations as hold that much of a Gaussian.
    spearman : float or None
        Rank correlation of std and error of force vectors; None where one is constant.
    n_structures : int
    """

    std: FloatArray
    error: FloatArray
    bin_std: FloatArray
    bin_rmse: FloatArray
    promised: FloatArray
    covered: FloatArray | None
    covered_gaussian: FloatArray
    spearman: float | None
    n_structures: int

    @property
    def calibrated(self) -> bool:
        """Whether the model's calibration has been applied."""
        return self.covered is not None

    @property
    def coverage(self) -> dict[str, float]:
        """Share of errors within one and two standard deviations."""
        return {str(k): coverage(self.error, k * self.std) for k in (1, 2)}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, binned."""
        return {
            "n_structures": self.n_structures,
            "n_components": len(self.std),
            "calibrated": self.calibrated,
            "spearman_forces": self.spearman,
            "coverage": self.coverage,
            "promised_coverage": self.promised.tolist(),
            "interval_coverage": None if self.covered is None else self.covered.tolist(),
            "bin_std_ev_per_ang": self.bin_std.tolist(),
            "bin_rmse_ev_per_ang": self.bin_rmse.tolist(),
        }


@dataclass(frozen=True)
class Parity:
    """Labels of one kind and what is predicted for them.

    Attributes
    ----------
    kind : {"energy", "forces", "stress"}
    label, predicted : ndarray of shape (n,)
        Energies over free atoms [eV/atom], force components [eV/Å], stress components [GPa].
    groups : list of str
        Config type of each.
    """

    kind: str
    label: FloatArray
    predicted: FloatArray
    groups: list[str]

    @property
    def mae(self) -> float:
        """Mean absolute error, in the unit of the kind."""
        return float(np.abs(self.predicted - self.label).mean())

    @property
    def rmse(self) -> float:
        """Root mean square error, in the unit of the kind."""
        return float(np.sqrt(np.mean((self.predicted - self.label) ** 2)))


def parity(
    potential: Potential, data: Dataset, predictions: Iterable[Prediction]
) -> dict[str, Parity]:
    """Labels beside predictions, of each kind of label that the data have.

    Parameters
    ----------
    potential : KernelPotential
        Whose free atoms energies are relative to.
    data : Dataset
    predictions : iterable of Prediction
        One for each structure.

    Returns
    -------
    dict of kind to Parity
    """
    pairs: dict[str, list[FloatArray]] = {"energy": [], "forces": [], "stress": []}
    groups: dict[str, list[str]] = {kind: [] for kind in pairs}
    for frame, found in zip(data, predictions, strict=True):
        known: dict[str, tuple[Any, ...]] = {}
        if frame.energy is not None:
            free = potential.model.e0.total(frame.atoms.numbers)
            known["energy"] = tuple((e - free) / len(frame) for e in (frame.energy, found.energy))
        if frame.forces is not None:
            known["forces"] = (frame.forces, found.forces)
        if frame.stress is not None and found.stress is not None:
            known["stress"] = (frame.stress / GPa, found.stress / GPa)
        for kind, both in known.items():
            flat = np.stack([np.ravel(values) for values in both])
            pairs[kind].append(flat)
            groups[kind] += [frame.config_type] * flat.shape[1]
    result = {}
    for kind, rows in pairs.items():
        if rows:
            labels, predicted = np.concatenate(rows, axis=1)
            result[kind] = Parity(kind, labels, predicted, groups[kind])
    return result


def reliability(
    potential: Potential,
    data: Dataset,
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Reliability | None:
    """Compare force errors with predicted standard deviations, on some of the structures.

    Parameters
    ----------
    potential : KernelPotential
    data : Dataset
    n_threads : int, optional
    progress : callable, optional

    Returns
    -------
    Reliability or None
        None without force labels.
    """
    labelled = [f for f in data if f.forces is not None and len(f) > 1]
    if not labelled:
        return None
    # evenly over the data, config types come in runs
    size = sum(map(len, labelled)) / len(labelled)
    n = min(len(labelled), MAX_STD_STRUCTURES, max(1, int(MAX_STD_ATOMS / size)))
    chosen = [labelled[k] for k in np.linspace(0, len(labelled) - 1, n).round().astype(int)]
    calibration = potential.model.calibration
    stds, errors, factors = [], [], []
    predictions = potential.predict_many(
        [frame.atoms for frame in chosen],
        return_std=True,
        n_threads=n_threads,
        names=[frame.name for frame in chosen],
    )
    for done, (frame, found) in enumerate(zip(chosen, predictions, strict=True)):
        assert frame.forces is not None
        assert found.forces_std is not None
        stds.append(found.forces_std)
        errors.append(found.forces - frame.forces)
        if calibration is not None:
            widths = [calibration.per_atom("forces", p, frame.atoms.numbers) for p in PROMISED]
            if all(w is not None for w in widths):
                factors.append(np.array(widths).T)
        if progress is not None:
            progress("standard deviations", done + 1, len(chosen))
    std_nc, error_nc = np.concatenate(stds), np.concatenate(errors)
    lengths = [np.linalg.norm(values, axis=1) for values in (std_nc, error_nc)]
    varied = all(len(v) > 2 and np.ptp(v) > 0 for v in lengths)
    used = informative(std_nc)
    flat, wrong = std_nc[used], error_nc[used]
    covered = None
    if len(factors) == len(chosen):
        factor_nl = np.concatenate(factors)[np.nonzero(used)[0]]
        covered = np.array([coverage(wrong, flat * factor) for factor in factor_nl.T])
    order = np.argsort(flat, kind="stable")
    bins = [b for b in np.array_split(order, N_BINS) if len(b)]
    promised, gaussian = gaussian_coverage(wrong, flat, np.array(PROMISED))
    return Reliability(
        flat,
        wrong,
        np.array([np.sqrt(np.mean(flat[b] ** 2)) for b in bins]),
        np.array([np.sqrt(np.mean(wrong[b] ** 2)) for b in bins]),
        promised,
        covered,
        gaussian,
        float(spearmanr(*lengths).statistic) if varied else None,
        len(chosen),
    )
