"""What a potential says about labelled structures, and beyond them: numbers to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.types import Progress
from kernelpot.data.dataset import Dataset
from kernelpot.model.errors import evaluate
from kernelpot.model.prediction import Prediction, ReturnStd
from kernelpot.plot.comparison import Parity, Reliability, parity, reliability
from kernelpot.plot.scans import Curve, compression_curves, dimer_curves
from kernelpot.potential import KernelPotential
from kernelpot.safety.gate import NOTICEABLE, VarianceGate


@dataclass(frozen=True)
class Diagnosis:
    """All numbers of a report.

    Attributes
    ----------
    errors : dict
        Of `kernelpot.evaluate`.
    parity : dict of kind to Parity
        Labels and predictions.
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
    parity: dict[str, Parity]
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
    notes: list[str] = []
    return Diagnosis(
        errors,
        parity(potential, data, remembering.predictions),
        reliability(potential, data, n_threads=n_threads, progress=progress),
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
