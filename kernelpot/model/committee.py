"""Potentials drawn from the posterior: error bars for whatever is computed with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, overload

import numpy as np
from ase import Atoms

from kernelpot.common.parallel import map_in_order, single_blas_thread, thread_count
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.neighbors import NeighborList
from kernelpot.data.system import Contribution, species_index, voigt
from kernelpot.gp.covariance import KernelTerm
from kernelpot.gp.local import BATCH, LocalModel
from kernelpot.model.fitted import FittedModel
from kernelpot.terms.dot_product import normalize
from kernelpot.terms.soap import PairBatch

Potential = TypeVar("Potential")
Weights = Mapping[tuple[int, int], FloatArray]


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
    weights : mapping of (species, term) to ndarray of shape (n_members, n_sparse)
        Weights of the sparse points in each member [1/eV].
    """

    def __init__(
        self, model: FittedModel, wrap: Callable[[FittedModel], Potential], weights: Weights
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
        layout = model.posterior.layout
        weights = {
            key: mean + deviations[:, layout.blocks[key]] @ model.local.whitening[key].T
            for key, mean in model.local.weights.items()
        }
        return cls(model, wrap, weights)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(next(iter(self._weights.values())))

    @overload
    def __getitem__(self, index: int) -> Potential: ...
    @overload
    def __getitem__(self, index: slice) -> Committee[Potential]: ...
    def __getitem__(self, index: int | slice) -> Potential | Committee[Potential]:
        """Return one member, or a Committee of a slice."""
        if isinstance(index, slice):
            some = {k: w[index] for k, w in self._weights.items()}
            return Committee(self._model, self._wrap, some)
        return self._wrap(self._member(range(len(self))[index]))

    def _member(self, number: int) -> FittedModel:
        model = self._model
        local = LocalModel(
            model.local.terms,
            {key: np.ascontiguousarray(w[number]) for key, w in self._weights.items()},
            model.local.whitening,
            model.local.variances,
            model.local.gauge_fixed,
        )
        note = f"weights are sample {number + 1} of {len(self)} from the posterior"
        training = {**model.training, "notes": [*model.training["notes"], note]}
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
            model.local.terms,
            self._weights,
            species_index(atoms.numbers, model.species),
            system.pairs,
            system.displacements,
            thread_count(n_threads),
        )
        known = Contribution.zero(system)
        model.reference.add_to(system, known)
        energies += known.energies.sum()
        forces += system.forces(known)
        stresses = None
        if np.all(atoms.pbc):
            virials -= system.virials(known)[0]
            stresses = np.array([voigt(v) for v in virials]) / atoms.get_volume()
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
    terms: Sequence[KernelTerm],
    weights: Weights,
    z_index: IntArray,
    pairs: NeighborList,
    displacements: FloatArray,
    n_threads: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Energies (n,), forces (n, n_atoms, 3), derivatives by strain (n, 3, 3)."""
    n_members = len(next(iter(weights.values())))
    n_atoms = len(z_index)
    batches = [
        term.soap.pairs(pairs.first, pairs.neighbors, displacements, z_index) for term in terms
    ]

    def work(start: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        stop = min(start + BATCH, n_atoms)
        p = slice(pairs.first[start], pairs.first[stop])
        energies = np.zeros(n_members)
        gradient = np.zeros((n_members, p.stop - p.start, 3))
        for t, term in enumerate(terms):
            _add_term(
                term,
                {z: w for (z, s), w in weights.items() if s == t},
                z_index[start:stop],
                _run(batches[t], start, stop),
                energies,
                gradient,
            )
        centers = np.repeat(np.arange(start, stop), np.diff(pairs.first[start : stop + 1]))
        forces = np.zeros((n_members, n_atoms, 3))
        for member, slope in zip(forces, gradient, strict=True):
            for c in range(3):
                member[:, c] += np.bincount(centers, slope[:, c], n_atoms)
                member[:, c] -= np.bincount(pairs.neighbors[p], slope[:, c], n_atoms)
        return energies, forces, np.einsum("pa,npb->nab", displacements[p], gradient)

    energies = np.zeros(n_members)
    forces = np.zeros((n_members, n_atoms, 3))
    virials = np.zeros((n_members, 3, 3))
    starts = range(0, n_atoms, BATCH)
    with single_blas_thread():
        for part in map_in_order(work, starts, min(n_threads, len(starts))):
            energies += part[0]
            forces += part[1]
            virials += part[2]
    return energies, forces, virials


def _run(batch: PairBatch, start: int, stop: int) -> PairBatch:
    """Pairs of a run of centers, which are numbered from zero."""
    p = slice(batch.first[start], batch.first[stop])
    return PairBatch(
        batch.first[start : stop + 1] - p.start,
        batch.displacements[p],
        batch.channels[p],
        batch.weights[p],
        batch.center_channels[start:stop],
        batch.center_values[start:stop],
    )


def _add_term(
    term: KernelTerm,
    weights: Mapping[int, FloatArray],
    z_index: IntArray,
    batch: PairBatch,
    energies: FloatArray,
    gradient: FloatArray,
) -> None:
    """Add one term of all members: summed energies (n,), pair gradients (n, p, 3)."""
    n = len(z_index)
    coefficients = term.soap.expansion(batch, 0, n)
    unit, norm = normalize(term.soap.features(coefficients))
    slopes = {}
    for z, samples in weights.items():
        rows = np.flatnonzero(z_index == z)
        if len(rows):
            cosine = term.kernel.cosine(unit[rows], term.sparse[z])
            energies += samples @ term.kernel.values(cosine).sum(axis=0)
            slopes[z] = rows, term.kernel.slopes(cosine)
    for member, pair_gradient in enumerate(gradient):
        cotangent = np.zeros_like(unit)
        for z, (rows, slope) in slopes.items():
            cotangent[rows] = (slope * weights[z][member]) @ term.sparse[z]
        cotangent -= np.einsum("ef,ef->e", cotangent, unit)[:, None] * unit
        cotangent /= norm[:, None]
        term.soap.pair_gradients(batch, 0, n, coefficients, cotangent, pair_gradient)
