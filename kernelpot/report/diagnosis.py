"""What a potential says about labelled structures, and beyond them: numbers to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import GPa
from scipy.stats import spearmanr

from kernelpot.common.types import FloatArray, Progress
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.model.errors import coverage, evaluate
from kernelpot.model.prediction import Prediction, ReturnStd
from kernelpot.potential import KernelPotential
from kernelpot.report.curves import Curve, compression_curves, dimer_curves
from kernelpot.safety.gate import NOTICEABLE, VarianceGate

# Structures, and atoms of them, whose forces get a standard deviation (it costs some
# hundred times a prediction).
MAX_STD_STRUCTURES, MAX_STD_ATOMS = 60, 1000
# Equally populated bins of the predicted standard deviation.
N_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Predicted standard deviations of force components against errors.

    Attributes
    ----------
    std, error : ndarray of shape (n,)
        Predicted, and found [eV/Å].
    bin_std, bin_rmse : ndarray of shape (n_bins,)
        Root mean squares in bins of equal population.
    spearman : float or None
        Rank correlation of std and error of force vectors; None where one is constant.
    n_structures : int
    calibrated : bool
        Whether the model's calibration has been applied.
    """

    std: FloatArray
    error: FloatArray
    bin_std: FloatArray
    bin_rmse: FloatArray
    spearman: float | None
    n_structures: int
    calibrated: bool

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
            "bin_std_ev_per_ang": self.bin_std.tolist(),
            "bin_rmse_ev_per_ang": self.bin_rmse.tolist(),
        }


@dataclass(frozen=True)
class Diagnosis:
    """All numbers of a report.

    Attributes
    ----------
    errors : dict
        Of `kernelpot.evaluate`.
    parity : dict of kind to ndarray of shape (n, 2)
        Label and prediction: energies over free atoms [eV/atom], force components
        [eV/Å], stress components [GPa].
    config_types : dict of kind to list of str
        Of each row of `parity`.
    reliability : Reliability or None
        None without force labels.
    gated : dict
        ``n_atoms``, ``n_structures``, ``by_species`` {symbol: [beyond, all]},
        ``structures`` {name: atoms beyond the data}.
    thresholds : dict of symbol to dict
        ``std_known``, ``width`` [eV].
    dimers, compressions : list of Curve
    notes : list of str
        Curves that could not be made, and why.
    """

    errors: dict[str, Any]
    parity: dict[str, FloatArray]
    config_types: dict[str, list[str]]
    reliability: Reliability | None
    gated: dict[str, Any]
    thresholds: dict[str, dict[str, float]]
    dimers: list[Curve]
    compressions: list[Curve]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the single labels."""
        return {
            "errors": self.errors,
            "reliability": None if self.reliability is None else self.reliability.to_dict(),
            "gated": self.gated,
            "gate_thresholds_ev": self.thresholds,
            "dimers": [curve.to_dict() for curve in self.dimers],
            "compressions": [curve.to_dict() for curve in self.compressions],
            "notes": list(self.notes),
        }


def diagnose(
    potential: KernelPotential,
    data: Dataset,
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Compare a potential with labelled structures, and look beyond them.

    Parameters
    ----------
    potential : KernelPotential
    data : Dataset
    n_threads : int, optional
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    Diagnosis

    Raises
    ------
    ValueError
        If a structure has a species the model does not know, or is not sound.
    """
    remembering = _Remembering(potential)
    errors = evaluate(remembering, data, n_threads=n_threads, progress=progress)
    parity, config_types = _parity(potential, data, remembering.predictions)
    notes: list[str] = []
    return Diagnosis(
        errors,
        parity,
        config_types,
        _force_reliability(potential, data, n_threads=n_threads, progress=progress),
        _gated_atoms(potential, data, n_threads=n_threads, progress=progress),
        _thresholds(potential),
        dimer_curves(potential, notes, n_threads=n_threads),
        compression_curves(potential, data, notes, n_threads=n_threads),
        notes,
    )


class _Remembering:
    """A potential that keeps what it predicted: one pass for errors and pictures."""

    def __init__(self, potential: KernelPotential) -> None:
        self._potential = potential
        self.predictions: list[Prediction] = []

    def predict_many(
        self,
        structures: Sequence[Atoms],
        *,
        return_std: ReturnStd = False,
        gate: VarianceGate | bool = False,
        n_threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        for found in self._potential.predict_many(
            structures, return_std=return_std, gate=gate, n_threads=n_threads, names=names
        ):
            self.predictions.append(found)
            yield found


def _parity(
    potential: KernelPotential, data: Dataset, predictions: Sequence[Prediction]
) -> tuple[dict[str, FloatArray], dict[str, list[str]]]:
    pairs: dict[str, list[FloatArray]] = {"energy": [], "forces": [], "stress": []}
    types: dict[str, list[str]] = {kind: [] for kind in pairs}
    for frame, found in zip(data, predictions, strict=True):
        known: dict[str, tuple[Any, Any]] = {}
        if frame.energy is not None:
            free = potential.model.e0.total(frame.atoms.numbers)
            per_atom = [(e - free) / len(frame) for e in (frame.energy, found.energy)]
            known["energy"] = (per_atom[0], per_atom[1])
        if frame.forces is not None:
            known["forces"] = (frame.forces, found.forces)
        if frame.virial is not None and found.stress is not None:
            label = -frame.virial / frame.atoms.get_volume()
            known["stress"] = (label / GPa, found.stress / GPa)
        for kind, (label, predicted) in known.items():
            rows = np.stack([np.ravel(label), np.ravel(predicted)], axis=1)
            pairs[kind].append(rows)
            types[kind] += [frame.config_type] * len(rows)
    return {k: np.concatenate(v) for k, v in pairs.items() if v}, {
        k: v for k, v in types.items() if v
    }


def _force_reliability(
    potential: KernelPotential,
    data: Dataset,
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Reliability | None:
    """Compare force errors with predicted standard deviations, on some of the structures.

    None without force labels.
    """
    labelled = [f for f in data if f.forces is not None and len(f) > 1]
    # evenly over the data, config types come in runs
    chosen: list[Frame] = []
    n_atoms = 0
    for frame in labelled[:: max(1, len(labelled) // MAX_STD_STRUCTURES)]:
        if n_atoms + len(frame) <= MAX_STD_ATOMS or not chosen:
            chosen.append(frame)
            n_atoms += len(frame)
    if not chosen:
        return None
    calibrated = potential.model.calibration is not None
    stds, errors = [], []
    for done, frame in enumerate(chosen):
        found = potential.predict(frame.atoms, return_std=True, n_threads=n_threads)
        assert frame.forces is not None
        assert found.forces_std is not None
        stds.append(found.forces_std)
        errors.append(found.forces - frame.forces)
        if progress is not None:
            progress("standard deviations", done + 1, len(chosen))
    std_nc, error_nc = np.concatenate(stds), np.concatenate(errors)
    lengths = [np.linalg.norm(values, axis=1) for values in (std_nc, error_nc)]
    varied = all(len(v) > 2 and np.ptp(v) > 0 for v in lengths)
    # components without uncertainty are zero by symmetry
    used = std_nc > 1e-3 * np.sqrt(np.mean(std_nc**2))
    flat, wrong = std_nc[used], error_nc[used]
    order = np.argsort(flat, kind="stable")
    bins = [b for b in np.array_split(order, N_BINS) if len(b)]
    return Reliability(
        flat,
        wrong,
        np.array([np.sqrt(np.mean(flat[b] ** 2)) for b in bins]),
        np.array([np.sqrt(np.mean(wrong[b] ** 2)) for b in bins]),
        float(spearmanr(*lengths).statistic) if varied else None,
        len(chosen),
        calibrated,
    )


def _thresholds(potential: KernelPotential) -> dict[str, dict[str, float]]:
    """Up to what local std atoms count as known, and over what the penalty sets in [eV]."""
    model = potential.model
    known = model.safety.std_known
    return {
        chemical_symbols[z]: {
            "std_known": float(known[k]),
            "width": float(model.safety.width[k]),
        }
        for k, z in enumerate(model.species)
    }


def _gated_atoms(
    potential: KernelPotential,
    data: Dataset,
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Count the atoms beyond the training data.

    Keys are those of `Diagnosis.gated`.
    """
    counts = {chemical_symbols[z]: [0, 0] for z in potential.model.species}
    structures: dict[str, int] = {}
    predictions = potential.predict_many([f.atoms for f in data], gate=True, n_threads=n_threads)
    for done, (frame, found) in enumerate(zip(data, predictions, strict=True)):
        assert found.penalty is not None
        beyond = found.penalty > NOTICEABLE
        for symbol, is_beyond in zip(frame.atoms.symbols, beyond, strict=True):
            counts[symbol][0] += int(is_beyond)
            counts[symbol][1] += 1
        if beyond.any():
            structures[frame.name] = int(beyond.sum())
        if progress is not None:
            progress("gate", done + 1, len(data))
    return {
        "n_atoms": sum(structures.values()),
        "n_structures": len(structures),
        "by_species": counts,
        "structures": structures,
    }
