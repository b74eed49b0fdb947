"""Potentials drawn from the posterior: error bars for whatever is computed with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, TypeVar, overload

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.cards import card
from kernelpot.common.compare import ComparesArrays
from kernelpot.common.parallel import thread_count
from kernelpot.common.types import FloatArray
from kernelpot.data.neighbors import NeighborList
from kernelpot.data.system import Contribution, voigt, volume_of
from kernelpot.gp.local import LocalModel
from kernelpot.gp.members import Members, drawn
from kernelpot.model.fitted import FittedModel

Potential = TypeVar("Potential")


@dataclass(frozen=True, eq=False, repr=False)
class CommitteePrediction(ComparesArrays):
    """What each member of a committee predicts for one structure.

    Parameters
    ----------
    energies : ndarray of shape (n_members,)
        Total energies [eV].
    forces : ndarray of shape (n_members, n_atoms, 3)
        [eV/Å].
    stresses : ndarray of shape (n_members, 6) or None
        xx yy zz yz xz xy [eV/Å^3]; None without a cell of three vectors.
    """

    energies: FloatArray
    forces: FloatArray
    stresses: FloatArray | None


class Committee(Sequence[Potential], Generic[Potential]):
    """Potentials drawn from the posterior of one, as `KernelPotential.sample` returns.

    ``committee[i]`` is a whole potential: predict, calculator, save. `predict` evaluates
    a structure with all members, which share everything that does not depend on weights.
    Baseline and free atoms are those of the fitted potential; no noise is added.

    Parameters
    ----------
    model : FittedModel
        The model they are drawn from.
    wrap : callable
        Makes a potential of a member's model.
    weights : ndarray of shape (n_members, n_sparse)
        Weights of the sparse points in each member [1/eV].
    """

    def __init__(
        self, model: FittedModel, wrap: Callable[[FittedModel], Potential], weights: FloatArray
    ) -> None:
        self._model = model
        self._wrap = wrap
        self._weights = weights

    @classmethod
    def draw(
        cls,
        model: FittedModel,
        wrap: Callable[[FittedModel], Potential],
        n: int,
        rng: np.random.Generator,
    ) -> Committee[Potential]:
        """Draw members; see `KernelPotential.sample`.

        Parameters
        ----------
        model : FittedModel
        wrap : callable
            Makes a potential of a member's model.
        n : int
        rng : numpy.random.Generator

        Returns
        -------
        Committee

        Raises
        ------
        ValueError
            If `n` is not positive.
        """
        if int(n) != n or n < 1:
            raise ValueError(f"`n` must be a positive number of potentials, got {n!r}")
        spread = 1.0 if model.calibration is None else model.calibration.spread
        deviations = drawn(model.design, model.factor, int(n), rng)
        return cls(model, wrap, model.local.weights + spread * deviations)

    @cached_property
    def _members(self) -> Members:
        local = self._model.local
        return Members(
            self._model.design, self._weights - local.weights, local.weights, local.tails
        )

    def __repr__(self) -> str:
        """Say how many they are, and of what."""
        symbols = ", ".join(chemical_symbols[z] for z in self._model.species)
        return f"Committee({len(self)} potentials for {symbols})"

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        model = self._model
        spread = "as errors are" if model.calibration is not None else "NOT calibrated"
        facts = [
            ("species", ", ".join(chemical_symbols[z] for z in model.species)),
            ("weights of each", str(self._weights.shape[1])),
            ("spread", spread),
            ("use", "committee.predict(atoms); committee[0].calculator()"),
        ]
        return card(f"Committee of {len(self)} potentials drawn from the posterior", facts)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._weights)

    @overload
    def __getitem__(self, index: int) -> Potential: ...
    @overload
    def __getitem__(self, index: slice) -> Committee[Potential]: ...
    def __getitem__(self, index: int | slice) -> Potential | Committee[Potential]:
        """Return one member, or a Committee of a slice."""
        if isinstance(index, slice):
            return Committee(self._model, self._wrap, self._weights[index])
        return self._wrap(self._member(range(len(self))[index]))

    def _member(self, number: int) -> FittedModel:
        model = self._model
        local = LocalModel(
            model.design,
            self._weights[number].copy(),
            model.local.variances,
            model.local.gauge_fixed,
            tails=model.local.tails,
        )
        note = f"weights are sample {number + 1} of {len(self)} from the posterior"
        training = model.training.noting(note)
        return replace(model, local=local, training=training)

    def predict(
        self,
        atoms: Atoms,
        *,
        neighbors: NeighborList | None = None,
        n_threads: int | None = None,
    ) -> CommitteePrediction:
        """Predict a structure with every member, in one pass over its descriptors.

        The mean and energies are in double precision, what forces and stresses of members
        deviate by in single precision: mostly within 2e-4 of their spread they are those of
        ``committee[i]``.

        Parameters
        ----------
        atoms : ase.Atoms
            Any periodicity; not modified.
        neighbors : NeighborList, optional
            A list valid for `atoms` to at least `r_cut`; searched for if not given.
        n_threads : int, optional
            Default: ``KERNELPOT_NUM_THREADS`` or the free cores.

        Returns
        -------
        CommitteePrediction

        Raises
        ------
        ValueError
            If the structure has a species the model does not know, or is not sound.
        """
        model = self._model
        system = model.system(atoms, neighbors)
        if model.safety.damping(system.numbers, system.pairs, system.distances) is not None:
            return self._one_by_one(atoms, system.pairs, n_threads)
        energies, forces, virials = self._members.evaluate(
            system, n_threads=thread_count(n_threads)
        )
        known = Contribution.zero(system)
        model.reference.add_to(system, known)
        energies += known.energies.sum()
        forces += system.forces(known)
        stresses = None
        volume = volume_of(atoms)
        if volume is not None:
            virials += system.virials(known)[0]
            stresses = np.array([-voigt(v) for v in virials]) / volume
        return CommitteePrediction(energies, forces, stresses)

    def _one_by_one(
        self, atoms: Atoms, neighbors: NeighborList, n_threads: int | None
    ) -> CommitteePrediction:
        """Every member's own prediction: near atoms damp its local energies, not their sum."""
        found = [
            self._member(index).predict(atoms, neighbors=neighbors, n_threads=n_threads)
            for index in range(len(self))
        ]
        stresses = [p.stress for p in found if p.stress is not None]
        return CommitteePrediction(
            np.array([p.energy for p in found]),
            np.array([p.forces for p in found]),
            np.array(stresses) if stresses else None,
        )
