"""What `kernelpot evaluate` writes frame by frame: predictions beside labels, and the worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from kernelpot.common.tables import number, table
from kernelpot.data.dataset import Frame
from kernelpot.md.trajectory import TrajectoryFile
from kernelpot.model.prediction import Prediction

N_WORST = 5


class Predictions:
    """Collects what is predicted, frame by frame.

    Parameters
    ----------
    path : str, optional
        File to write every frame to (`kernelpot.md.trajectory` names the formats): predictions as
        results, labels as ``REF_energy``, ``REF_forces`` and ``REF_virial``, errors (prediction
        less label) as ``energy_error_ev_per_atom``, ``forces_error`` and ``stress_error``, and
        standard deviations.
    array_names : sequence of str
        Arrays of the structures to keep (charges that a model reads).
    """

    def __init__(self, path: str | None = None, array_names: Sequence[str] = ()) -> None:
        self._file = None if path is None else TrajectoryFile(path, array_names)
        self._rows: list[dict[str, Any]] = []

    def __call__(self, frame: Frame, predicted: Prediction) -> None:
        """Take a frame."""
        notes: dict[str, Any] = {"config_type": frame.config_type, "name": frame.name}
        row: dict[str, Any] = {"name": frame.name, "config_type": frame.config_type}
        if frame.energy is not None:
            error = (predicted.energy - frame.energy) / len(frame)
            notes |= {"REF_energy": frame.energy, "energy_error_ev_per_atom": error}
            row["energy_error_mev_per_atom"] = 1e3 * error
        if frame.forces is not None:
            errors = predicted.forces - frame.forces
            notes |= {"REF_forces": frame.forces, "forces_error": errors}
            row["max_force_error_ev_per_ang"] = float(np.linalg.norm(errors, axis=1).max())
        if frame.virial is not None:
            notes["REF_virial"] = frame.virial
            if predicted.stress is not None and frame.stress is not None:
                notes["stress_error"] = predicted.stress - frame.stress
        for name in ("energies_std", "spilling", "energy_std", "forces_std", "stress_std",
                     "penalty", "std_bound"):  # fmt: skip
            value = getattr(predicted, name)
            if value is not None:
                notes[name] = value
        if predicted.energies_std is not None:
            row["max_energies_std_ev"] = float(predicted.energies_std.max())
        self._rows.append(row)
        if self._file is not None:
            atoms = frame.atoms.copy()
            results = {
                "energy": predicted.energy,
                "free_energy": predicted.energy,
                "energies": predicted.energies,
                "forces": predicted.forces,
            }
            if predicted.stress is not None:
                results["stress"] = predicted.stress
            atoms.calc = SinglePointCalculator(atoms, **results)
            self._file.append(atoms, notes)

    def worst(self) -> dict[str, list[dict[str, Any]]]:
        """Frames with the largest errors of the energy per atom and of a force.

        Returns
        -------
        dict
            ``energy`` and ``forces``: frames, worst first.
        """
        found = {}
        for kind, key in (
            ("energy", "energy_error_mev_per_atom"),
            ("forces", "max_force_error_ev_per_ang"),
        ):
            own = [row for row in self._rows if key in row]
            found[kind] = sorted(own, key=lambda row: -abs(row[key]))[:N_WORST]
        return found

    def text(self) -> str:
        """Table of the worst frames."""
        header = ["worst structures", "config type", "E error [meV/atom]", "largest F error [eV/Å]"]
        rows = {}
        for frames in self.worst().values():
            for row in frames:
                rows[row["name"]] = [
                    row["name"],
                    row["config_type"],
                    number(row.get("energy_error_mev_per_atom"), 2),
                    number(row.get("max_force_error_ev_per_ang"), 4),
                ]
        return table(header, list(rows.values()))
