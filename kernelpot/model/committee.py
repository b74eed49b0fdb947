"""Potentials drawn from the posterior: error bars for whatever is computed with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, overload

import numpy as np
from ase import Atoms

from kernelpot.common.parallel import map_in_order, single_blas_thread, thread_count
from kernelpot.common.types import FloatArray
from kernelpot.data.neighbors import NeighborList
from kernelpot.data.system import Contribution, System, voigt
from kernelpot.gp.local import BATCH, LocalModel
from kernelpot.gp.parts import TermRun
from kernelpot.model.fitted import FittedModel
from kernelpot.terms.polynomial import LeadingQuadratic

Potential = TypeVar("Potential")


@dataclass(frozen=True)
class CommitteePrediction:
    """What each member of a committee predicts for one structure.

    Parameters
    ----------
    energies : ndarray of shape (n_members,)
        Total energies [eV].
    forces : ndarray of shape (n_members, n_atoms, 3)
        [eV/Å].
    stresses : ndarray of shape (n_members, 6) or None
        xx yy zz yz xz xy [eV/Å^3]; None without three-dimensional periodicity.
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
        deviations = model.factor.deviations(int(n), rng)
        weights = np.empty((int(n), model.design.n_sparse))
        for block in model.design.blocks:
            mean = model.local.weights[block.sparse]
            weights[:, block.sparse] = mean + block.of_points(deviations[:, block.columns].T).T
        return cls(model, wrap, weights)

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
        energies, forces, virials = _evaluate(
            model.local, self._weights, system, thread_count(n_threads)
        )
        known = Contribution.zero(system)
        model.reference.add_to(system, known)
        energies += known.energies.sum()
        forces += system.forces(known)
        stresses = None
        if np.all(atoms.pbc):
            virials += system.virials(known)[0]
            stresses = np.array([-voigt(v) for v in virials]) / atoms.get_volume()
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


def _evaluate(
    local: LocalModel, weights: FloatArray, system: System, n_threads: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Energies (n,), forces (n, n_atoms, 3), virials (n, 3, 3) of the kernels."""
    energies = np.zeros(len(weights))
    forces = np.zeros((len(weights), system.n_atoms, 3))
    virials = np.zeros((len(weights), 3, 3))

    def work(start: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        atoms = slice(start, min(start + BATCH, system.n_atoms))
        return _of_run(local, weights, system.run(atoms), atoms, has_centers=True)

    def add(part: tuple[FloatArray, FloatArray, FloatArray]) -> None:
        for total, own in zip((energies, forces, virials), part, strict=True):
            total += own

    starts = range(0, system.n_atoms, BATCH)
    with single_blas_thread():
        for part in map_in_order(work, starts, min(n_threads, len(starts))):
            add(part)
        if not all(term.descriptor.has_centers for term in local.terms):
            everything = slice(0, system.n_atoms)
            add(_of_run(local, weights, system, everything, has_centers=False))
    return energies, forces, virials


def _of_run(
    local: LocalModel, weights: FloatArray, system: System, atoms: slice, *, has_centers: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Contribution of a run of atoms: of the terms with centers, or of those without."""
    energies = np.zeros(len(weights))
    found = [Contribution.zero(system) for _ in weights]
    for t, term in enumerate(local.terms):
        if term.descriptor.has_centers == has_centers:
            _add_term(local, t, weights, TermRun(term, system, atoms), energies, found)
    forces = np.array([system.forces(result) for result in found])
    virials = np.array([system.virials(result)[0] for result in found])
    return energies, forces, virials


def _add_term(
    local: LocalModel,
    t: int,
    weights: FloatArray,
    run: TermRun,
    energies: FloatArray,
    found: Sequence[Contribution],
) -> None:
    """Add one term of all members: summed energies (n,), and what moves them."""
    design, term = local.design, local.terms[t]
    parts = []
    common = {}
    for index, block in enumerate(design.blocks):
        if block.term != t:
            continue
        members = np.flatnonzero(run.found.key == term.descriptor.keys.index(block.key))
        if len(members):
            weight = 1.0 if run.found.weight is None else run.found.weight[members, None]
            similarity = term.kernel.similarity(run.u[members], block.points)
            values, slopes = term.kernel.values(similarity), term.kernel.slopes(similarity)
            energies += weights[:, block.sparse] @ (weight * values).sum(axis=0)
            parts.append((index, members, values, weight * slopes, term.kernel.own(similarity)))
            if index in local.tails:  # of every member alike
                form = LeadingQuadratic(local.tails[index])(run.u[members])
                energies += form[0].sum()
                common[index] = form
    for member, result in zip(weights, found, strict=True):
        for index, members, values, slopes, own in parts:
            block = design.blocks[index]
            by_similarity = slopes * member[block.sparse]
            along = np.einsum("em,em->e", by_similarity, own)
            by_weight = values @ member[block.sparse]
            by_u = term.kernel.contract(by_similarity, run.u[members], block.points)
            if index in common:
                by_u += common[index][1]
                along += common[index][2]
            run.set_gradient(members, by_u, along, by_weight)
        if parts:
            run.pull(result)
