"""ASE calculator of a fitted potential."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from kernelpot.dataset import check_cell
from kernelpot.neighbors import SkinList
from kernelpot.potential import KernelPotential, load


class KernelPotCalculator(Calculator):
    """Energy, forces, stress and local uncertainty for ASE.

    One evaluation serves every property of a configuration. The neighbor list is kept
    while atoms move less than half the skin.

    Parameters
    ----------
    potential : KernelPotential or path
        The potential, or a ``.kpot`` file. A later `fit` of it does not change the
        calculator.
    skin : float, default=0.5
        Verlet skin of the neighbor list [Å].
    gate : None
        Only None: this version has no variance gate; results are those of `predict`.
    with_std : bool, default=False
        Compute `energies_std` in every evaluation. Otherwise it is computed from the
        first time it is asked for.
    n_threads : int, optional
        Default: ``KERNELPOT_NUM_THREADS`` or the free cores.
    **kwargs
        Passed to `ase.calculators.calculator.Calculator`.

    Attributes
    ----------
    results : dict
        ``energy``, ``free_energy`` (equal), ``energies`` [eV], ``forces`` [eV/Å],
        ``stress`` (6, [eV/Å^3], only with three-dimensional periodicity), and on
        request ``energies_std`` [eV] and ``spilling``.
    n_evaluations : int
        How many configurations were evaluated.

    Raises
    ------
    ValueError
        On evaluation, for a species the potential does not know or an unsound
        structure.
    """

    implemented_properties = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "energies_std",
        "spilling",
    ]

    def __init__(
        self,
        potential: KernelPotential | str | os.PathLike[str],
        *,
        skin: float = 0.5,
        gate: None = None,
        with_std: bool = False,
        n_threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if gate is not None:
            raise ValueError("`gate` must be None: this version has no variance gate")
        if not isinstance(potential, KernelPotential):
            potential = load(potential)
        self.model = potential.model
        self.with_std = with_std
        self.n_threads = n_threads
        self.n_evaluations = 0
        self._list = SkinList(self.model.r_cut, skin)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List what has changed since the last evaluation, per-atom charges included.

        Parameters
        ----------
        atoms : ase.Atoms
        tol : float
            Largest difference that counts as none.

        Returns
        -------
        list of str
        """
        changes: list[str] = super().check_state(atoms, tol)
        if self.atoms is not None:
            for name in self.model.reference.array_names:
                old, new = self.atoms.arrays.get(name), atoms.arrays.get(name)
                same = old is new or (
                    old is not None and new is not None and np.array_equal(old, new)
                )
                if not same and name not in changes:
                    changes.append(name)
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate everything at once; called by ASE when atoms have changed.

        Parameters
        ----------
        atoms : ase.Atoms
        properties : sequence of str
        system_changes : sequence of str
        """
        super().calculate(atoms, properties, system_changes)
        if {"energies_std", "spilling"} & set(properties):
            self.with_std = True
        check_cell(self.atoms, "structure")
        neighbors = self._list.update(self.atoms)
        predicted = self.model.predict(
            self.atoms,
            return_std=self.with_std,
            neighbors=neighbors,
            n_threads=self.n_threads,
        )
        self.n_evaluations += 1
        self.results = {
            "energy": predicted.energy,
            "free_energy": predicted.energy,
            "energies": predicted.energies,
            "forces": predicted.forces,
        }
        if predicted.stress is not None:
            self.results["stress"] = predicted.stress
        if self.with_std:
            self.results["energies_std"] = predicted.energies_std
            self.results["spilling"] = predicted.spilling
