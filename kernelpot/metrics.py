"""Errors of a potential against labelled data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.units import GPa

from kernelpot.dataset import LabelKeys, read_dataset
from kernelpot.prediction import Prediction

FloatArray = npt.NDArray[np.float64]


class Predictor(Protocol):
    """Anything with the `predict_many` of a `KernelPotential`."""

    def predict_many(
        self,
        structures: Sequence[Atoms],
        *,
        gate: Any = ...,
        n_threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predict energy, forces and stress of structures."""


def evaluate(
    potential: Predictor,
    data: Any,
    *,
    keys: LabelKeys | None = None,
    gate: Any = False,
    n_threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Errors overall and per config type.

    Parameters
    ----------
    potential : KernelPotential
    data : path, Dataset, ...
        Whatever `read_dataset` takes.
    keys : LabelKeys, optional
    gate : bool or VarianceGate, default=False
        As in `KernelPotential.predict`.
    n_threads : int, optional
    progress : callable, optional

    Returns
    -------
    dict
        ``energy_mae_mev_per_atom``, ``energy_rmse_mev_per_atom``,
        ``forces_mae_ev_per_ang``, ``forces_rmse_ev_per_ang`` (per component),
        ``stress_mae_gpa``, ``n_structures``, ``n_atoms``, and ``by_config_type`` with
        the same keys per group; None without labels.
    """
    dataset = read_dataset(data, keys=keys)
    errors = []
    structures = [frame.atoms for frame in dataset]
    names = [frame.name for frame in dataset]
    options = {"gate": gate} if gate else {}
    predictions = potential.predict_many(structures, n_threads=n_threads, names=names, **options)
    for done, (frame, predicted) in enumerate(zip(dataset, predictions, strict=True)):
        energy = forces = stress = None
        if frame.energy is not None:
            energy = np.array([(predicted.energy - frame.energy) / len(frame)])
        if frame.forces is not None:
            forces = (predicted.forces - frame.forces).ravel()
        if frame.virial is not None and predicted.stress is not None:
            stress = predicted.stress + frame.virial / frame.atoms.get_volume()
        errors.append((frame.config_type, len(frame), energy, forces, stress))
        if progress is not None:
            progress("evaluate", done + 1, len(dataset))
    result = _statistics(errors)
    result["by_config_type"] = {
        name: _statistics([e for e in errors if e[0] == name])
        for name in sorted({e[0] for e in errors})
    }
    return result


def _statistics(errors: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    def gather(index: int) -> FloatArray:
        found = [e[index] for e in errors if e[index] is not None]
        return np.concatenate(found) if found else np.empty(0)

    def mae(values: FloatArray, scale: float = 1.0) -> float | None:
        return float(np.abs(values).mean() * scale) if values.size else None

    def rmse(values: FloatArray, scale: float = 1.0) -> float | None:
        return float(np.sqrt((values**2).mean()) * scale) if values.size else None

    energy, forces, stress = gather(2), gather(3), gather(4)
    return {
        "energy_mae_mev_per_atom": mae(energy, 1e3),
        "energy_rmse_mev_per_atom": rmse(energy, 1e3),
        "forces_mae_ev_per_ang": mae(forces),
        "forces_rmse_ev_per_ang": rmse(forces),
        "stress_mae_gpa": mae(stress, 1 / GPa),
        "n_structures": len(errors),
        "n_atoms": int(sum(e[1] for e in errors)),
    }
