"""What a potential says about labelled structures, and beyond them: numbers to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.types import FloatArray, Progress
from kernelpot.data.dataset import Dataset
from kernelpot.model.errors import evaluate
from kernelpot.model.prediction import Prediction, ReturnStd
from kernelpot.plot.comparison import Parity, Reliability, parity, reliability
from kernelpot.plot.environments import EnvironmentMap, environment_map
from kernelpot.plot.scans import Curve, compression_curves, dimer_curves
from kernelpot.potential import KernelPotential
from kernelpot.safety.gate import NOTICEABLE, VarianceGate

# Structures shown for their energies, and for their forces; species that are mapped.
N_WORST, MAX_MAPS = 3, 4


@dataclass(frozen=True)
class WorstStructure:
    """A structure with one of the largest errors.

    Attributes
    ----------
    index : int
        In the data.
    name, config_type : str
    energy_error : float or None
        Prediction less label [meV/atom].
    force_error : float or None
        Length of the largest error of a force [eV/Å].
    atom : int or None
        On which that acts.
    """

    index: int
    name: str
    config_type: str
    energy_error: float | None
    force_error: float | None
    atom: int | None


@dataclass(frozen=True)
class Diagnosis:
    """All numbers of a report.

    Attributes
    ----------
    errors : dict
        Of `kernelpot.evaluate`.
    by_species : dict of symbol to dict
        Errors of force components on the atoms of a species: ``n_atoms``,
        ``forces_mae_ev_per_ang``, ``forces_rmse_ev_per_ang``.
    worst : list of WorstStructure
        Those of the largest errors, of energies first.
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
    maps : list of EnvironmentMap
        Of the species that can be mapped, most frequent first.
    notes : list of str
        Curves and maps that could not be made, and why.
    """

    errors: dict[str, Any]
    by_species: dict[str, dict[str, Any]]
    worst: list[WorstStructure]
    parity: dict[str, Parity]
    reliability: Reliability | None
    gated: dict[str, Any]
    thresholds: dict[str, dict[str, float]]
    dimers: list[Curve]
    compressions: list[Curve]
    maps: list[EnvironmentMap]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the single labels."""
        return {
            "errors": self.errors,
            "errors_by_species": self.by_species,
            "worst": [asdict(found) for found in self.worst],
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
    errors = evaluate(remembering, data, n_threads=n_threads, progress=progress, local_std=True)
    found = remembering.predictions
    notes: list[str] = []
    return Diagnosis(
        errors,
        _by_species(data, found),
        _worst(data, found),
        parity(potential, data, found),
        reliability(potential, data, n_threads=n_threads, progress=progress),
        _gated_atoms(potential, data, n_threads=n_threads, progress=progress),
        _thresholds(potential),
        dimer_curves(potential, notes, n_threads=n_threads),
        compression_curves(potential, data, notes, n_threads=n_threads),
        _maps(potential, data, found, notes),
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


def _by_species(data: Dataset, predictions: Sequence[Prediction]) -> dict[str, dict[str, Any]]:
    """Errors of force components on the atoms of each species."""
    errors: dict[str, list[FloatArray]] = {}
    for frame, found in zip(data, predictions, strict=True):
        if frame.forces is not None:
            wrong = found.forces - frame.forces
            for z in np.unique(frame.atoms.numbers):
                errors.setdefault(chemical_symbols[z], []).append(wrong[frame.atoms.numbers == z])
    result = {}
    for symbol, parts in sorted(errors.items()):
        wrong = np.concatenate(parts)
        result[symbol] = {
            "n_atoms": len(wrong),
            "forces_mae_ev_per_ang": float(np.abs(wrong).mean()),
            "forces_rmse_ev_per_ang": float(np.sqrt(np.mean(wrong**2))),
        }
    return result


def _worst(data: Dataset, predictions: Sequence[Prediction]) -> list[WorstStructure]:
    """Structures of the largest errors of the energy per atom, and of a force."""
    all_of_them = []
    for index, (frame, found) in enumerate(zip(data, predictions, strict=True)):
        energy = force = atom = None
        if frame.energy is not None:
            energy = 1e3 * (found.energy - frame.energy) / len(frame)
        if frame.forces is not None:
            lengths = np.linalg.norm(found.forces - frame.forces, axis=1)
            atom = int(np.argmax(lengths))
            force = float(lengths[atom])
        all_of_them.append(
            WorstStructure(index, frame.name, frame.config_type, energy, force, atom)
        )
    of_energy = [w for w in all_of_them if w.energy_error is not None]
    of_forces = [w for w in all_of_them if w.force_error is not None]
    chosen = [
        *sorted(of_energy, key=lambda w: -abs(w.energy_error or 0.0))[:N_WORST],
        *sorted(of_forces, key=lambda w: -(w.force_error or 0.0))[:N_WORST],
    ]
    return list({w.index: w for w in chosen}.values())


def _maps(
    potential: KernelPotential, data: Dataset, predictions: Sequence[Prediction], notes: list[str]
) -> list[EnvironmentMap]:
    """Maps of the environments of the most frequent species."""
    stds = [found.energies_std for found in predictions]
    assert all(std is not None for std in stds)
    known = [std for std in stds if std is not None]
    counts = {z: sum(int(np.sum(f.atoms.numbers == z)) for f in data) for z in data.species}
    maps = []
    for z in sorted(counts, key=lambda z: -counts[z])[:MAX_MAPS]:
        try:
            maps.append(environment_map(potential.model, data, number=z, stds=known))
        except ValueError as error:
            notes.append(f"no map of {chemical_symbols[z]}: {error}")
    return maps


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
