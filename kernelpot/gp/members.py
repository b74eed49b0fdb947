"""Several sets of weights of one design, evaluated in one pass over the descriptors.

Draws from the posterior of the weights are potentials of their own. They share whatever does
not depend on weights: neighbors, features, kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import Contribution, System
from kernelpot.gp.blocks import Block
from kernelpot.gp.design import Design
from kernelpot.gp.local import BATCH
from kernelpot.gp.parts import TermRun
from kernelpot.regression.factors import TriangularFactor
from kernelpot.terms.base import FastMean, HasBeside, Kernel, PullsMembers

# Members whose products with the sparse points are formed together, and bytes of closed forms
# of the mean that are kept.
TOGETHER = 8
MAX_BYTES = 2e8
# Members whose derivatives are carried from features to displacements together.
AT_ONCE = 32

# Energies (n,), forces (n, n_atoms, 3), virials (n, 3, 3).
Evaluated = tuple[FloatArray, FloatArray, FloatArray]


def drawn(design: Design, factor: TriangularFactor, n: int, rng: np.random.Generator) -> FloatArray:
    r"""Draw deviations :math:`T R^{-1} z` of the weights of the sparse points from their mean.

    Parameters
    ----------
    design : Design
    factor : TriangularFactor
        Posterior precision of the whitened weights.
    n : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (n, n_sparse)
        [1/eV].
    """
    whitened = factor.deviations(n, rng)
    weights = np.empty((n, design.n_sparse))
    for block in design.blocks:
        weights[:, block.sparse] = block.of_points(whitened[:, block.columns].T).T
    return weights


@dataclass(frozen=True)
class Members:
    """Potentials that differ in the weights of their sparse points alone.

    Attributes
    ----------
    design : Design
    weights : ndarray of shape (n_members, n_sparse)
        [1/eV].
    tails : mapping of int to ndarray
        What the energy of every member has beside its points, as in `LocalModel` [eV]; none
        for deviations from a mean.
    """

    design: Design
    weights: FloatArray
    tails: Mapping[int, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.weights)

    @cached_property
    @single_blas_thread()
    def _means(self) -> dict[int, list[FastMean]]:
        """Closed forms of the mean of each member, of the blocks where that costs less."""
        found = {}
        left = MAX_BYTES
        for index, block in enumerate(self.design.blocks):
            term = self.design.terms[block.term]
            left -= 8 * len(self) * term.descriptor.n_features**2
            if left < 0 or not len(block.points):
                continue
            means = []
            for weights in self.weights[:, block.sparse]:
                mean = term.kernel.fast_mean(block.points, weights)
                if mean is None:
                    break
                means.append(mean)
            if len(means) == len(self):
                found[index] = means
        return found

    def evaluate(self, system: System, *, n_threads: int = 1) -> Evaluated:
        """Evaluate one structure with all members.

        Parameters
        ----------
        system : System
            One structure, with all pairs within the largest cutoff.
        n_threads : int
            The result does not depend on it.

        Returns
        -------
        energies : ndarray of shape (n_members,)
            Of the kernels [eV].
        forces : ndarray of shape (n_members, n_atoms, 3)
            [eV/Å].
        virials : ndarray of shape (n_members, 3, 3)
            [eV].
        """
        n = len(self)
        totals = np.zeros(n), np.zeros((n, system.n_atoms, 3)), np.zeros((n, 3, 3))
        _ = self._means  # before there are threads

        def work(start: int) -> Evaluated:
            atoms = slice(start, min(start + BATCH, system.n_atoms))
            return self._of_run(system.run(atoms), atoms, has_centers=True)

        def add(part: Evaluated) -> None:
            for total, own in zip(totals, part, strict=True):
                total += own

        starts = range(0, system.n_atoms, BATCH)
        with single_blas_thread():
            for part in map_in_order(work, starts, min(n_threads, len(starts))):
                add(part)
            if not all(term.descriptor.has_centers for term in self.design.terms):
                everything = slice(0, system.n_atoms)
                add(self._of_run(system, everything, has_centers=False))
        return totals

    def _of_run(self, system: System, atoms: slice, *, has_centers: bool) -> Evaluated:
        """Contribution of a run of atoms: of the terms with centers, or of those without."""
        energies = np.zeros(len(self))
        gradients = np.zeros((system.pairs.n_pairs, 3, len(self)))
        forces, virials = np.zeros((len(self), system.n_atoms, 3)), np.zeros((len(self), 3, 3))
        for t, term in enumerate(self.design.terms):
            if term.descriptor.has_centers != has_centers:
                continue
            run = TermRun(term, system, atoms)
            parts = list(self._parts(t, run))
            for part in parts:
                energies += part.values.sum(axis=1)
            together = run.found.weight is None and isinstance(term.descriptor, PullsMembers)
            for start in range(0, len(self) if parts else 0, AT_ONCE):
                some = range(start, min(start + AT_ONCE, len(self)))
                if together:
                    own = gradients
                    if len(some) < len(self):
                        own = np.zeros((*gradients.shape[:2], len(some)))
                    _pull_together(run, parts, some, own)
                    if own is not gradients:
                        gradients[:, :, some.start : some.stop] += own
                    continue
                for member, out in self._one_by_one(run, parts, some):
                    gradients[:, :, member] += out.gradient
                    forces[member] += out.forces
                    virials[member] += out.virials[0]
        by_pairs = system.of_members(gradients)
        return energies, forces + by_pairs[0], virials + by_pairs[1]

    def _parts(self, t: int, run: TermRun) -> Iterator[_Part]:
        """What all members make of the environments of each block of a term."""
        term = self.design.terms[t]
        for index, block in enumerate(self.design.blocks):
            if block.term == t:
                key = term.descriptor.keys.index(block.key)
                members = np.flatnonzero(run.found.key == key)
                if len(members):
                    yield self._part(index, block, term.kernel, run, members)

    def _one_by_one(
        self, run: TermRun, parts: Sequence[_Part], some: range
    ) -> Iterator[tuple[int, Contribution]]:
        """Derivatives of a term's energy, member by member."""
        for start in range(some.start, some.stop, TOGETHER):
            few = range(start, min(start + TOGETHER, some.stop))
            slopes = [part.by_features(few) for part in parts]
            for k, member in enumerate(few):
                for part, by_u in zip(parts, slopes, strict=True):
                    weight = part.by_weight
                    run.set_gradient(
                        part.members,
                        by_u[k],
                        part.own[member],
                        None if weight is None else weight[member],
                    )
                out = Contribution.zero(run.system)
                run.pull(out)
                yield member, out

    def _part(
        self, index: int, block: Block, kernel: Kernel, run: TermRun, members: IntArray
    ) -> _Part:
        u = run.u if len(members) == len(run.u) else run.u[members]
        weight = None if run.found.weight is None else run.found.weight[members]
        means = self._means.get(index)
        part: _Part
        if means is not None:
            part = _Closed(members, u, weight, means)
        else:
            weights = self.weights[:, block.sparse]
            part = _ByKernel(members, u, weight, kernel, block.points, weights)
        if index in self.tails:
            assert isinstance(kernel, HasBeside)
            part.add_to_all(kernel.beside(self.tails[index]), u, weight)
        return part


def _pull_together(
    run: TermRun, parts: Sequence[_Part], some: range, gradients: FloatArray
) -> None:
    """Add the derivatives of a term's energy in some members, shape (n_pairs, 3, n)."""
    by_x = np.zeros((len(some), *run.u.shape))
    for part in parts:
        u, norm = run.u[part.members], run.norm[part.members]
        for start in range(0, len(some), TOGETHER):
            few = range(some[start], min(some[start] + TOGETHER, some.stop))
            by_u = part.by_features(few)
            by_u -= part.own[few.start : few.stop, :, None] * u
            by_u /= norm[:, None]
            by_x[start : start + len(few), part.members] = by_u
    run.pull_members(by_x, gradients)


class _Part:
    """Environments of one block, and what all members make of them.

    Attributes
    ----------
    members : ndarray of shape (n_env,)
    values : ndarray of shape (n_members, n_env)
        Weighted energies.
    own : ndarray of shape (n_members, n_env)
        Their derivatives' part along the environments' own features.
    by_weight : ndarray of shape (n_members, n_env) or None
    common : ndarray of shape (n_env, n_features) or None
        What all members' derivatives by features have beside `slopes`.
    """

    members: IntArray
    values: FloatArray
    own: FloatArray
    by_weight: FloatArray | None
    common: FloatArray | None = None

    def slopes(self, some: range) -> FloatArray:
        """Derivatives by features of some members, (n, n_env, n_features), but for `own`."""
        raise NotImplementedError

    def by_features(self, some: range) -> FloatArray:
        """The same with what all members have in common."""
        found = self.slopes(some)
        if self.common is not None:
            found += self.common
        return found

    def add_to_all(self, mean: FastMean, u: FloatArray, weight: FloatArray | None) -> None:
        """Add an energy that all members have."""
        values, by_u, own = mean(u)
        if weight is not None and self.by_weight is not None:
            self.by_weight += values
            values, by_u, own = weight * values, weight[:, None] * by_u, weight * own
        self.values += values
        self.own += own
        self.common = by_u


class _Closed(_Part):
    """By closed forms of the mean."""

    def __init__(
        self, members: IntArray, u: FloatArray, weight: FloatArray | None, means: list[FastMean]
    ) -> None:
        self.members = members
        found = [mean(u) for mean in means]
        values = np.array([value for value, _, _ in found])
        self._by_u = [by_u for _, by_u, _ in found]
        self.own = np.array([own for _, _, own in found])
        self.by_weight = None
        self.values = values
        if weight is not None:
            self.by_weight, self.values = values, weight * values
            self.own *= weight
            for by_u in self._by_u:
                by_u *= weight[:, None]

    def slopes(self, some: range) -> FloatArray:
        return np.array(self._by_u[some.start : some.stop])


class _ByKernel(_Part):
    """By the kernel with all sparse points."""

    def __init__(
        self,
        members: IntArray,
        u: FloatArray,
        weight: FloatArray | None,
        kernel: Kernel,
        points: FloatArray,
        weights: FloatArray,
    ) -> None:
        self.members = members
        self._kernel, self._u = kernel, u
        self._points, self._weights = points, weights
        similarity = kernel.similarity(u, points)
        values = weights @ kernel.values(similarity).T
        self._slopes = kernel.slopes(similarity)
        if weight is not None:
            self._slopes *= weight[:, None]
        self.own = weights @ (self._slopes * kernel.own(similarity)).T
        self.by_weight = None if weight is None else values
        self.values = values if weight is None else weight * values

    def slopes(self, some: range) -> FloatArray:
        by_similarity = self._slopes * self._weights[some.start : some.stop, None, :]
        if self._kernel.explicit:
            contract = self._kernel.contract
            return np.array([contract(own, self._u, self._points) for own in by_similarity])
        n, n_env, n_points = by_similarity.shape
        return (by_similarity.reshape(n * n_env, n_points) @ self._points).reshape(n, n_env, -1)
