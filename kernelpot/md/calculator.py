"""ASE calculator of a fitted potential."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from kernelpot.data.neighbors import NeighborList, SkinList
from kernelpot.data.soundness import check_cell
from kernelpot.model.file import load
from kernelpot.model.fitted import FittedModel
from kernelpot.model.prediction import Prediction
from kernelpot.model.self_test import UnsafePotentialWarning
from kernelpot.safety.gate import NOTICEABLE, GateClosedError, GateWarning, VarianceGate, as_gate

# Standard deviations computed only where they are asked for.
_FULL_STD = ("energy_std", "forces_std", "stress_std")


class HasModel(Protocol):
    """Whatever holds a fitted model (`KernelPotential`)."""

    @property
    def model(self) -> FittedModel:
        """What predicts."""


def model_of(potential: HasModel | FittedModel | str | os.PathLike[str]) -> FittedModel:
    """Return the fitted model meant by a potential or the path of its file.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(potential, (str, os.PathLike)):
        return load(potential)[0]
    model = getattr(potential, "model", potential)
    if not isinstance(model, FittedModel):
        raise TypeError(
            f"a calculator needs a fitted KernelPotential or a .kpot file, got {potential!r}"
        )
    return model


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
    gate : VarianceGate, bool or None, default=True
        The safety net: True with what the fit found, None (or False) for none, so that
        results are those of `predict`.
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
        for: ``calc.get_property("forces_std", atoms)``. With a gate also
        ``penalty`` (by what each local energy is raised because its environment is not
        known [eV]), ``n_beyond`` (atoms beyond the data: with a penalty above 1 meV) and
        ``std_bound``: local standard deviations [eV], exact beyond what counts as known
        and elsewhere an upper bound below that.
    n_evaluations : int
        How many configurations were evaluated.

    Raises
    ------
    ValueError
        On evaluation, for a species the potential does not know or an unsound
        structure.
    GateClosedError
        On evaluation, where atoms are beyond the data and the gate says "stop".

    Warns
    -----
    UnsafePotentialWarning
        Once, if the potential's test of itself failed.
    GateWarning
        Once, when atoms are beyond the data for the first time and the gate says "warn".
    """

    implemented_properties = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "energies_std",
        "spilling",
        "penalty",
        "std_bound",
        "n_beyond",
        *_FULL_STD,
    ]

    def __init__(
        self,
        potential: HasModel | FittedModel | str | os.PathLike[str],
        *,
        skin: float = 0.5,
        gate: VarianceGate | bool | None = True,
        with_std: bool = False,
        n_threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model_of(potential)
        self.gate = as_gate(gate)
        if self.gate is not None:  # a wrong one is refused here, not in mid-run
            self.gate.known(self.model.species, self.model.safety)
        tested = self.model.self_test
        if tested is not None and not tested.passed:
            warnings.warn(tested.verdict, UnsafePotentialWarning, stacklevel=2)
        self.with_std = with_std
        self.n_threads = n_threads
        self.n_evaluations = 0
        self._warned = False
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
            self.results.update({k: full[k] for k in _FULL_STD if full[k] is not None})

    def _evaluate(self, neighbors: NeighborList) -> None:
        predicted = self.model.predict(
            self.atoms,
            return_std="local" if self.with_std else False,
            gate=self.gate,
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
        if self.gate is not None:
            self._report_gate(predicted)

    def _report_gate(self, predicted: Prediction) -> None:
        """Put the state of the safety net into the results, and react to it."""
        assert self.gate is not None
        penalty = predicted.penalty
        assert penalty is not None
        n_beyond = int(np.sum(penalty > NOTICEABLE))
        self.results.update(penalty=penalty, std_bound=predicted.std_bound, n_beyond=n_beyond)
        reaction = self.gate.on_gate
        if not n_beyond or reaction is None:
            return
        worst = int(penalty.argmax())
        message = (
            f"{n_beyond} of {len(penalty)} atoms are beyond the training data (evaluation "
            f"{self.n_evaluations}; most of all atom {worst}, {self.atoms[worst].symbol}): as the "
            f"model does not know them, its energy is raised by {penalty.sum():.2g} eV"
        )
        if callable(reaction):
            reaction(self.atoms, penalty)
        elif reaction == "stop":
            raise GateClosedError(message)
        elif not self._warned:
            self._warned = True
            warnings.warn(message, GateWarning, stacklevel=2)
