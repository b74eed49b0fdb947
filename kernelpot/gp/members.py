"""Several sets of weights of one design, evaluated in one pass over the descriptors.

Draws from the posterior of the weights are potentials of their own. They share whatever does
not depend on weights: neighbors, features, kernels, derivatives of features by displacements.
What they have in common, their mean, is evaluated as that of a model is; what each deviates by
from it is small, and single precision does where there are closed forms for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, IntArray, SingleArray
from kernelpot.data.system import Contribution, System
from kernelpot.gp import _members
from kernelpot.gp.blocks import Block
from kernelpot.gp.design import Design
from kernelpot.gp.local import BATCH
from kernelpot.gp.parts import Compiled, Part, TermRun
from kernelpot.regression.factors import TriangularFactor
from kernelpot.terms.base import (
    FastMean,
    HasBeside,
    HasSeveralMeans,
    Kernel,
    PullsMembers,
    SeveralMeans,
)

# Members whose products with the sparse points are formed together, and bytes of closed forms
# of the mean that are kept.
TOGETHER = 8
MAX_BYTES = 2e8
# Members that are evaluated together.
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
        Deviations of each from the mean [1/eV].
    mean : ndarray of shape (n_sparse,) or None
        What is added to all of them [1/eV]; None: deviations alone are evaluated.
    tails : mapping of int to ndarray
        What the mean's energy has beside its points, as in `LocalModel` [eV].
    """

    design: Design
    weights: FloatArray
    mean: FloatArray | None = None
    tails: Mapping[int, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.weights)

    @cached_property
    def _pulled(self) -> set[int]:
        """Terms whose descriptors move several scalars at once."""
        terms = self.design.terms
        return {t for t, term in enumerate(terms) if isinstance(term.descriptor, PullsMembers)}

    @property
    def _groups(self) -> list[range]:
        """Members that are evaluated together."""
        starts = range(0, len(self), AT_ONCE)
        return [range(start, min(start + AT_ONCE, len(self))) for start in starts]

    @cached_property
    @single_blas_thread()
    def _several(self) -> dict[tuple[int, int], SeveralMeans]:
        """Closed forms of deviations by index of the block and start of the group."""
        found = {}
        left = MAX_BYTES
        for index, block in enumerate(self.design.blocks):
            kernel = self.design.terms[block.term].kernel
            # what is moved one by one does not become cheaper, and keeps its precision
            if block.term not in self._pulled or not isinstance(kernel, HasSeveralMeans):
                continue
            if not len(block.points):
                continue
            own = {}
            for group in self._groups:
                weights = self.weights[group.start : group.stop, block.sparse]
                means = kernel.several_means(block.points, weights, left)
                if means is None:
                    break
                left -= means.n_bytes
                own[index, group.start] = means
            if len(own) == len(self._groups):
                found.update(own)
        return found

    @cached_property
    @single_blas_thread()
    def _means(self) -> dict[int, list[FastMean]]:
        """Closed forms of each deviation, where there are none of several."""
        found = {}
        left = MAX_BYTES
        for index, block in enumerate(self.design.blocks):
            term = self.design.terms[block.term]
            if (index, 0) in self._several or not len(block.points):
                continue
            left -= 8 * len(self) * term.descriptor.n_features**2
            if left < 0:
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

    @cached_property
    @single_blas_thread()
    def _compiled(self) -> list[Compiled]:
        """The mean of each block."""
        found: list[Compiled] = []
        if self.mean is None:
            return found
        for index, block in enumerate(self.design.blocks):
            weights = self.mean[block.sparse]
            kernel = self.design.terms[block.term].kernel
            tail = self.tails.get(index)
            if tail is None:
                fast = kernel.fast_mean(block.points, weights)
            else:
                assert isinstance(kernel, HasBeside)
                fast = kernel.completed(block.points, weights, tail)
            found.append(Compiled(block.points, weights, np.arange(0), fast))
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
        _ = self._several, self._means, self._compiled, self._pulled  # before there are threads

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
        groups = self._groups
        gradients = [
            np.zeros((system.pairs.n_pairs, 3, len(group)), dtype=np.float32) for group in groups
        ]
        forces, virials = np.zeros((len(self), system.n_atoms, 3)), np.zeros((len(self), 3, 3))
        common, out = 0.0, Contribution.zero(system)
        for t, term in enumerate(self.design.terms):
            if term.descriptor.has_centers != has_centers:
                continue
            run = TermRun(term, system, atoms)
            environments = [
                (index, block, members)
                for index, block in enumerate(self.design.blocks)
                if block.term == t and len(members := _members_of(run, term.descriptor.keys, block))
            ]
            similarities = {}
            for index, block, members in environments if self.mean is not None else ():
                mean = Part(block, term.kernel, self._compiled[index], run, members, None)
                common += float(mean.weighted(mean.evaluate_mean()).sum())
                mean.pull_mean()
                similarities[index] = mean.similarity
            if similarities:
                run.pull(out)
            together = run.found.weight is None and t in self._pulled
            for group, own in zip(groups, gradients, strict=True):
                parts = [
                    self._part(index, block, run, members, group, similarities.get(index))
                    for index, block, members in environments
                ]
                if not parts:
                    continue
                if together:
                    _pull_together(run, parts, own)
                else:
                    for k, moved in _one_by_one(run, parts, len(group)):
                        forces[group[k]] += system.forces(moved)
                        virials[group[k]] += system.virials(moved)[0]
                for part in parts:
                    energies[group.start : group.stop] += part.energies
        for group, own in zip(groups, gradients, strict=True):
            by_pairs = system.of_members(own)
            forces[group.start : group.stop] += by_pairs[0]
            virials[group.start : group.stop] += by_pairs[1]
        if self.mean is not None:
            energies += common
            forces += system.forces(out)
            virials += system.virials(out)[0]
        return energies, forces, virials

    def _part(
        self,
        index: int,
        block: Block,
        run: TermRun,
        members: IntArray,
        group: range,
        similarity: FloatArray | None,
    ) -> _Part:
        """What some members make of the environments of a block."""
        several = self._several.get((index, group.start))
        if several is not None:
            return _Several(run, members, several, similarity)
        means = self._means.get(index)
        if means is not None:
            return _Closed(run, members, means[group.start : group.stop])
        weights = self.weights[group.start : group.stop, block.sparse]
        kernel = self.design.terms[block.term].kernel
        return _ByKernel(run, members, kernel, block.points, weights, similarity)


def _members_of(run: TermRun, keys: Sequence[tuple[int, ...]], block: Block) -> IntArray:
    """Which environments of a run belong to a block."""
    return np.flatnonzero(run.found.key == list(keys).index(block.key))


def _pull_together(run: TermRun, parts: Sequence[_Part], gradients: SingleArray) -> None:
    """Add the derivatives of a term's energy in some members, shape (n_pairs, 3, n)."""
    if len(parts) == 1 and parts[0].whole:
        run.pull_members(parts[0].by_x(), gradients)
        return
    by_x = np.zeros((*run.u.shape, gradients.shape[2]), dtype=np.float32)
    for part in parts:
        by_x[part.members] = part.by_x()
    run.pull_members(by_x, gradients)


def _one_by_one(run: TermRun, parts: Sequence[_Part], n: int) -> Iterator[tuple[int, Contribution]]:
    """Derivatives of a term's energy, member by member."""
    for start in range(0, n, TOGETHER):
        few = range(start, min(start + TOGETHER, n))
        slopes = [part.slopes(few) for part in parts]
        for k, member in enumerate(few):
            for part, by_u in zip(parts, slopes, strict=True):
                weight = part.by_weight
                run.set_gradient(
                    part.members,
                    by_u[k],
                    part.own[:, member],
                    None if weight is None else weight[:, member],
                )
            out = Contribution.zero(run.system)
            run.pull(out)
            yield member, out


class _Part:
    """Environments of one block, and what some members make of them.

    Attributes
    ----------
    members : ndarray of shape (n_env,)
    whole : bool
        Whether these are all environments of the run.
    energies : ndarray of shape (n_members,)
        Weighted and summed.
    own : ndarray of shape (n_env, n_members)
        Their derivatives' part along the environments' own features.
    by_weight : ndarray of shape (n_env, n_members) or None
    """

    def __init__(self, run: TermRun, members: IntArray) -> None:
        self.members = members
        self.whole = len(members) == len(run.u)
        self._u = run.u if self.whole else run.u[members]
        self._norm = run.norm if self.whole else run.norm[members]
        weight = run.found.weight
        self._weight = None if weight is None else weight[members]

    def _take(self, values: FloatArray, own: FloatArray) -> None:
        """Keep energies of environments of weight 1, and their derivatives' part along features."""
        self.own, self.by_weight = own, None
        if self._weight is None:
            self.energies = values.sum(axis=0)
        else:
            self.energies = self._weight @ values
            self.own, self.by_weight = self._weight[:, None] * own, values

    def slopes(self, some: range) -> FloatArray:
        """Derivatives by embedded features, (n, n_env, n_features), but for `own`."""
        raise NotImplementedError

    def by_x(self) -> SingleArray:
        """Derivatives by features, (n_env, n_features, n_members), of environments of weight 1.

        May be asked for once, and `slopes` no more then.
        """
        n = self.own.shape[1]
        found = np.empty((*self._u.shape, n), dtype=np.float32)
        for start in range(0, n, TOGETHER):
            few = range(start, min(start + TOGETHER, n))
            by_u = self.slopes(few)
            by_u -= self.own.T[few.start : few.stop, :, None] * self._u
            by_u /= self._norm[:, None]
            found[:, :, few.start : few.stop] = by_u.transpose(1, 2, 0)
        return found


class _Several(_Part):
    """By closed forms of several means."""

    def __init__(
        self, run: TermRun, members: IntArray, means: SeveralMeans, similarity: FloatArray | None
    ) -> None:
        super().__init__(run, members)
        self._by_u, energies = means(self._u, similarity, self._weight)
        own = np.empty((len(members), self._by_u.shape[2]))
        _members.own_parts(self._by_u, self._u, own)
        # Euler's theorem on homogeneous functions
        self._take(own / means.degree, own)
        self.energies = energies  # in double precision

    def slopes(self, some: range) -> FloatArray:
        found = self._by_u[:, :, some.start : some.stop].transpose(2, 0, 1).astype(float)
        if self._weight is not None:
            found *= self._weight[:, None]
        return found

    def by_x(self) -> SingleArray:
        _members.to_features(self._by_u, self.own, self._u, self._norm)
        return self._by_u


class _Closed(_Part):
    """By closed forms of each mean."""

    def __init__(self, run: TermRun, members: IntArray, means: Sequence[FastMean]) -> None:
        super().__init__(run, members)
        found = [mean(self._u) for mean in means]
        self._by_u = [by_u for _, by_u, _ in found]
        if self._weight is not None:
            for by_u in self._by_u:
                by_u *= self._weight[:, None]
        self._take(
            np.array([value for value, _, _ in found]).T, np.array([own for _, _, own in found]).T
        )

    def slopes(self, some: range) -> FloatArray:
        return np.array(self._by_u[some.start : some.stop])


class _ByKernel(_Part):
    """By the kernel with all sparse points."""

    def __init__(
        self,
        run: TermRun,
        members: IntArray,
        kernel: Kernel,
        points: FloatArray,
        weights: FloatArray,
        similarity: FloatArray | None,
    ) -> None:
        super().__init__(run, members)
        self._kernel, self._points, self._weights = kernel, points, weights
        if similarity is None:
            similarity = kernel.similarity(self._u, points)
        self._slopes = kernel.slopes(similarity)
        own = (self._slopes * kernel.own(similarity)) @ weights.T
        if self._weight is not None:
            self._slopes *= self._weight[:, None]
        self._take(kernel.values(similarity) @ weights.T, own)

    def slopes(self, some: range) -> FloatArray:
        by_similarity = self._slopes * self._weights[some.start : some.stop, None, :]
        if self._kernel.explicit:
            contract = self._kernel.contract
            return np.array([contract(own, self._u, self._points) for own in by_similarity])
        n, n_env, n_points = by_similarity.shape
        return (by_similarity.reshape(n * n_env, n_points) @ self._points).reshape(n, n_env, -1)
