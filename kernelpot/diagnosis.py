"""What a potential says about labelled structures, and where they end: numbers to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import GPa
from scipy.stats import spearmanr

from kernelpot.dataset import Dataset, Frame
from kernelpot.fitted import ReturnStd
from kernelpot.gate import GATED_WEIGHT, VarianceGate
from kernelpot.metrics import coverage, evaluate
from kernelpot.potential import KernelPotential
from kernelpot.prediction import Prediction

FloatArray = npt.NDArray[np.float64]
Progress = Callable[[str, float, float], None]

# Structures, and atoms of them, whose forces get a standard deviation (it costs some
# hundred times a prediction).
MAX_STD_STRUCTURES, MAX_STD_ATOMS = 60, 1000
# Points of a scan; a dimer from this share of the shortest distance of the data on.
N_POINTS = 60
SHORTEST_SHARE = 0.4
# Linear factors of the scan of crystals and molecules, how many of them, and their atoms.
FACTORS = (0.6, 1.3)
MAX_SCANNED, MAX_SCANNED_ATOMS = 3, 64
# Equally populated bins of the predicted standard deviation.
N_BINS = 10
# Rounding: energies [eV] that rise by less on stretching do not pull.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Curve:
    """Energy of a structure along a scan, with the gate and without.

    Attributes
    ----------
    name : str
    x : ndarray of shape (n,)
        Distance [Å] or linear factor.
    gated, ungated, baseline : ndarray of shape (n,)
        Energy over free atoms [eV], of a dimer or per atom of a crystal.
    std : ndarray of shape (n,)
        Largest local standard deviation [eV].
    weight : ndarray of shape (n,)
        Largest share of the fallback, 0 to 1.
    contact : float or None
        x of the shortest distance of the data; None where they have no such pair.
    """

    name: str
    x: FloatArray
    gated: FloatArray
    ungated: FloatArray
    baseline: FloatArray
    std: FloatArray
    weight: FloatArray
    contact: float | None

    @property
    def repulsive(self) -> bool | None:
        """Whether the gated energy rises all the way inward from the data; None if unknown."""
        if self.contact is None:
            return None
        inside = self.gated[self.x <= self.contact]
        return bool((np.diff(inside) <= ROUNDING).all()) if len(inside) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        columns = ("x", "gated", "ungated", "baseline", "std", "weight")
        return {
            "name": self.name,
            "contact": self.contact,
            "repulsive": self.repulsive,
            **{name: getattr(self, name).tolist() for name in columns},
        }


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
        ``n_atoms``, ``n_structures``, ``by_species`` {symbol: [gated, all]}.
    thresholds : dict of symbol to dict
        ``std_low``, ``std_high``, ``fallback`` [eV].
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
        force_reliability(potential, data, n_threads=n_threads, progress=progress),
        gated_atoms(potential, data, n_threads=n_threads, progress=progress),
        thresholds(potential),
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


def force_reliability(
    potential: KernelPotential,
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
        std: Any = found.interval(None).forces if calibrated else found.forces_std
        assert frame.forces is not None
        stds.append(np.asarray(std))
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


def thresholds(potential: KernelPotential) -> dict[str, dict[str, float]]:
    """Where the gate begins to close and is closed, and what takes over [eV].

    Parameters
    ----------
    potential : KernelPotential

    Returns
    -------
    dict of symbol to dict
        ``std_low``, ``std_high``, ``fallback``.
    """
    model = potential.model
    low, high = VarianceGate().thresholds(model.species, model.safety.std_low)
    return {
        chemical_symbols[z]: {
            "std_low": float(np.sqrt(low[k])),
            "std_high": float(np.sqrt(high[k])),
            "fallback": float(model.safety.fallback[k]),
        }
        for k, z in enumerate(model.species)
    }


def gated_atoms(
    potential: KernelPotential,
    data: Dataset,
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Count the atoms whose local energy the gate replaces by more than 1 %.

    Parameters
    ----------
    potential : KernelPotential
    data : Dataset
    n_threads : int, optional
    progress : callable, optional

    Returns
    -------
    dict
        ``n_atoms``, ``n_structures``, ``by_species`` {symbol: [gated, all]},
        ``structures`` {name: gated atoms}.
    """
    counts = {chemical_symbols[z]: [0, 0] for z in potential.model.species}
    structures: dict[str, int] = {}
    predictions = potential.predict_many([f.atoms for f in data], gate=True, n_threads=n_threads)
    for done, (frame, found) in enumerate(zip(data, predictions, strict=True)):
        assert found.gate_weights is not None
        closed = found.gate_weights > GATED_WEIGHT
        for symbol, is_gated in zip(frame.atoms.symbols, closed, strict=True):
            counts[symbol][0] += int(is_gated)
            counts[symbol][1] += 1
        if closed.any():
            structures[frame.name] = int(closed.sum())
        if progress is not None:
            progress("gate", done + 1, len(data))
    return {
        "n_atoms": sum(structures.values()),
        "n_structures": len(structures),
        "by_species": counts,
        "structures": structures,
    }


# ---- scans -----------------------------------------------------------------------------


def dimer_curves(
    potential: KernelPotential, notes: list[str], *, n_threads: int | None = None
) -> list[Curve]:
    """Energy of every pair of species against distance.

    Parameters
    ----------
    potential : KernelPotential
    notes : list of str
        Gets a line for each curve that the baseline does not allow.
    n_threads : int, optional

    Returns
    -------
    list of Curve
    """
    model = potential.model
    curves = []
    for a, b in combinations_with_replacement(model.species, 2):
        contact = model.safety.d_min.get((a, b))
        start = SHORTEST_SHARE * contact if contact else 0.8
        r = np.linspace(start, model.r_cut + 0.5, N_POINTS)
        name = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
        dimers = [Atoms([a, b], [[0, 0, 0], [0, 0, distance]]) for distance in r]
        curve = _curve(
            potential, name, r, dimers, contact, notes, per_atom=False, n_threads=n_threads
        )
        curves += [] if curve is None else [curve]
    return curves


def compression_curves(
    potential: KernelPotential,
    data: Dataset,
    notes: list[str],
    *,
    n_threads: int | None = None,
) -> list[Curve]:
    """Energy of small structures of the data that are compressed and stretched uniformly.

    Parameters
    ----------
    potential : KernelPotential
    data : Dataset
    notes : list of str
        Gets a line for each curve that the baseline does not allow.
    n_threads : int, optional

    Returns
    -------
    list of Curve
        The smallest structure of each composition, periodic ones first.
    """
    chosen: dict[str, Frame] = {}
    for frame in sorted(data, key=lambda f: (not np.all(f.atoms.pbc), len(f), f.name)):
        if 1 < len(frame) <= MAX_SCANNED_ATOMS or (len(frame) == 1 and np.all(frame.atoms.pbc)):
            chosen.setdefault(frame.atoms.symbols.get_chemical_formula("hill", True), frame)
    factors = np.linspace(*FACTORS, N_POINTS)
    curves = []
    for frame in list(chosen.values())[:MAX_SCANNED]:
        name = f"{frame.atoms.get_chemical_formula()} ({frame.name})"
        scaled = []
        for factor in factors:
            atoms = Atoms(
                frame.atoms.numbers,
                factor * frame.atoms.positions,
                cell=factor * frame.atoms.cell.array,
                pbc=frame.atoms.pbc,
            )
            scaled.append(atoms)
        # the structure itself is data: inward of it compression must cost
        curve = _curve(potential, name, factors, scaled, 0.9, notes, n_threads=n_threads)
        curves += [] if curve is None else [curve]
    return curves


def _curve(
    potential: KernelPotential,
    name: str,
    x: FloatArray,
    structures: Sequence[Atoms],
    contact: float | None,
    notes: list[str],
    *,
    per_atom: bool = True,
    n_threads: int | None = None,
) -> Curve | None:
    """Evaluate a scan; None, and a note, where the model refuses these structures."""
    model = potential.model
    scale = 1.0 / len(structures[0]) if per_atom else 1.0
    free = model.e0.total(structures[0].numbers)
    try:
        ungated = list(potential.predict_many(structures, return_std="local", n_threads=n_threads))
        gated = list(potential.predict_many(structures, gate=True, n_threads=n_threads))
    except ValueError as error:
        notes.append(f"no curve of {name}: {error}")
        return None
    known = [model.reference.labels(atoms)[0] for atoms in structures]
    return Curve(
        name,
        x,
        np.array([(p.energy - free) * scale for p in gated]),
        np.array([(p.energy - free) * scale for p in ungated]),
        np.array([(energy - free) * scale for energy in known]),
        np.array([_largest(p.energies_std) for p in ungated]),
        np.array([_largest(p.gate_weights) for p in gated]),
        contact,
    )


def _largest(values: FloatArray | None) -> float:
    assert values is not None
    return float(values.max())
