"""ASE calculator of a fitted potential."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from kernelpot.dataset import check_cell
from kernelpot.neighbors import NeighborList, SkinList
from kernelpot.potential import KernelPotential, load

# Standard deviations computed only where they are asked for.
_FULL_STD = ("energy_std", "forces_std", "stress_std")


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
        request ``energies_std`` [eV] and ``spilling``, ``energy_std`` [eV],
        ``forces_std`` [eV/Å] and ``stress_std`` [eV/Å^3, periodic only]. The last three
        cost many times the rest and are computed for a configuration only when asked
        for: ``calc.get_property("forces_std", atoms)``.
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
        *_FULL_STD,
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

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate everything at once; called by ASE when something is missing.

        Results that the configuration already has are kept: asking for `forces_std`
        later adds the standard deviations alone.

        Parameters
        ----------
        atoms : ase.Atoms
        properties : sequence of str
        system_changes : sequence of str
        """
        super().calculate(atoms, properties, system_changes)
        local_std = bool({"energies_std", "spilling"} & set(properties))
        self.with_std = self.with_std or local_std
        check_cell(self.atoms, "structure")
        neighbors = self._list.update(self.atoms)
        if system_changes:
            self.results = {}
        if not self.results or local_std:
            self._evaluate(neighbors)
        if set(_FULL_STD) & set(properties):
            full = self.model.full_std(self.atoms, neighbors=neighbors, n_threads=self.n_threads)
            self.results.update({k: v for k, v in full.items() if v is not None})

    def _evaluate(self, neighbors: NeighborList) -> None:
        predicted = self.model.predict(
            self.atoms,
            return_std="local" if self.with_std else False,
            neighbors=neighbors,
            n_threads=self.n_threads,
        )
        self.n_evaluations += 1
        self.results |= {
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
