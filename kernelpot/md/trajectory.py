"""Trajectories: all that is known of a frame, in every format that can hold it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian

from kernelpot.data.state import state_of

FORMATS = (".traj", ".xyz", ".extxyz", ".db")
# What ASE itself knows of an atom; other arrays of a start structure, such as old labels, belong
# to the start structure.
_KEPT = (
    "numbers", "positions", "momenta", "masses", "tags", "initial_magmoms", "initial_charges",
)  # fmt: skip


class TrajectoryFile:
    """A file that frames are added to: ``.traj``, extended XYZ, or a data base of ASE.

    Each frame has energy, free energy, local energies, forces and stress as results, momenta,
    constraints, and what it is annotated with: per structure in ``info``, per atom in arrays
    and, in ``.traj``, which keeps none of these, in ``info``. A data base (``.db``) has them as
    ``data`` and numbers as key-value pairs too.

    Parameters
    ----------
    path : str
        Replaced if it exists.
    array_names : sequence of str
        Arrays of the structure to keep besides those of ASE (charges that a model reads).

    Raises
    ------
    ValueError
        If the ending is none of `FORMATS`.
    """

    def __init__(self, path: str | os.PathLike[str], array_names: Sequence[str] = ()) -> None:
        self.path = os.fspath(path)
        self._array_names = (*_KEPT, *array_names)
        if not self.path.endswith(FORMATS):
            raise ValueError(
                f"a trajectory ends in {', '.join(FORMATS)}, which hold energies, forces, stress "
                f"and standard deviations of every frame; got {self.path!r} (convert it with ASE "
                "afterwards)"
            )
        if os.path.exists(self.path):
            os.unlink(self.path)

    def append(self, atoms: Atoms, notes: Mapping[str, Any]) -> None:
        """Add a frame.

        Parameters
        ----------
        atoms : ase.Atoms
            With a calculator that has its results.
        notes : mapping of str to float or ndarray
            What to annotate it with: arrays of one row per atom go with the atoms.
        """
        frame = self._frame(atoms)
        per_atom = {k: np.asarray(v) for k, v in notes.items() if np.shape(v)[:1] == (len(atoms),)}
        others = {k: v for k, v in notes.items() if k not in per_atom}
        if self.path.endswith(".db"):
            self._append_to_database(frame, {**others, **per_atom})
            return
        frame.info |= others
        if self.path.endswith(".traj"):
            from ase.io.trajectory import Trajectory

            frame.info |= per_atom
            with Trajectory(self.path, "a", frame) as trajectory:
                trajectory.write()
            return
        import ase.io

        for name, values in per_atom.items():
            frame.set_array(name, values)
        if not all(isinstance(c, (FixAtoms, FixCartesian)) for c in frame.constraints):
            # a column of the file holds those two only
            frame.info["constraints"] = json.dumps([c.todict() for c in frame.constraints])
            frame.set_constraint()
        ase.io.write(self.path, frame, format="extxyz", append=True)

    def _frame(self, atoms: Atoms) -> Atoms:
        """A copy with results that are numbers."""
        frame = atoms.copy()
        for name in list(frame.arrays):
            if name not in self._array_names:
                del frame.arrays[name]
        frame.info = state_of(frame)
        frame.calc = SinglePointCalculator(frame, **atoms.calc.results)
        return frame

    def _append_to_database(self, frame: Atoms, notes: Mapping[str, Any]) -> None:
        import ase.db

        numbers = {k: v for k, v in notes.items() if np.ndim(v) == 0}
        data = {k: np.asarray(v) if np.ndim(v) else v for k, v in notes.items()}
        with ase.db.connect(self.path) as base:
            base.write(frame, key_value_pairs=numbers, data=data)
