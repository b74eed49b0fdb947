"""Evaluating local energies, their variance, and exact gradients of either.

Per run of atoms: environments of each term, kernels (or the closed form of their mean where
that is cheaper), then one adjoint pass from a cotangent on the features back to the pair
displacements. Memory is that of the pairs and one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import Contribution, System
from kernelpot.gp.blend import Blend
from kernelpot.gp.blocks import Block, BoundTerm
from kernelpot.gp.design import Design
from kernelpot.gp.parts import Compiled, Part, TermRun, constant_prior
from kernelpot.gp.small import SMALL, SmallPass
from kernelpot.gp.species_run import SpeciesRun
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.terms.base import HasBeside, is_long_ranged
from kernelpot.terms.tabulation import Table

# Atoms evaluated together; more where variances are exact, as their large triangle is read
# anew for each batch. Fewer would leave fewer threads idle.
BATCH, VARIANCE_BATCH = 128, 256
# With several species together up to so many times as many, as each has matrices of its own.
MOST_BATCHES = 4
# In place of a species, for whole structures.
WHOLE = -1


@dataclass(frozen=True)
class LocalEvaluation:
    """What one pass over all atoms yields.

    Attributes
    ----------
    result : Contribution
        Local energies [eV] (blended, if a blend was given), and their derivatives if these
        were asked for (zero otherwise).
    variance : ndarray of shape (n_atoms,) or None
        Posterior variance [eV^2].
    novelty, prior : ndarray of shape (n_atoms,) or None
        Its novelty part, and the prior variance [eV^2].
    added, bound : ndarray of shape (n_atoms,) or None
        Of a blend: what it added because of the variances [eV], and the variances it was
        given [eV^2].
    """

    result: Contribution
    variance: FloatArray | None
    novelty: FloatArray | None
    prior: FloatArray | None
    added: FloatArray | None
    bound: FloatArray | None

    @property
    def energies(self) -> FloatArray:
        """Local energies [eV], shape (n_atoms,)."""
        return self.result.energies


@dataclass
class LocalModel:
    """The fitted Gaussian process as a function of environments.

    Parameters
    ----------
    design : Design
        Terms, sparse points and their whitening.
    weights : ndarray of shape (n_sparse,)
        Weight of each sparse point [1/eV].
    variances : mapping of species to LocalVariance
        Posterior of each species (an index in `Design.species`).
    gauge_fixed : mapping of species to LocalVariance, optional
        The same, given the local energies of the data (`kernelpot.gp.known_sites`): how the
        energy of a structure is shared among its atoms says nothing of how well an
        environment is known. Default: `variances`.
    fast : bool, default=True
        Use closed forms of the mean where they cost less. False: the kernel always.
    tails : mapping of int to ndarray, optional
        Of blocks (by their index) whose mean has more than the points (`HasBeside`): what these
        do not have of it. A whole quadratic form in leading features (`kernelpot.gp.quadratic`)
        of shape (n, n) [eV], or directions of all molecules (`kernelpot.terms.gdml`).
    """

    design: Design
    weights: FloatArray
    variances: Mapping[int, LocalVariance]
    gauge_fixed: Mapping[int, LocalVariance] | None = None
    fast: bool = True
    tails: Mapping[int, FloatArray] = field(default_factory=dict)
    compiled: dict[tuple[int, int], Compiled] = field(default_factory=dict, init=False, repr=False)

    @single_blas_thread()  # the same bits after a fit and after loading
    def __post_init__(self) -> None:
        """Sort the sparse points, and compile closed forms where they cost less."""
        for z, posterior in self.variances.items():
            start = 0
            for index, block in self.blocks_of(z):
                stop = start + len(block.points)
                columns = np.flatnonzero((posterior.order >= start) & (posterior.order < stop))
                used = posterior.order[columns] - start
                sorting = np.concatenate([used, np.setdiff1d(np.arange(stop - start), used)])
                self.compiled[z, index] = self._compile(
                    block, sorting, columns, self.tails.get(index)
                )
                start = stop
        for index, block in enumerate(self.design.blocks):
            if not self.terms[block.term].descriptor.has_centers:
                all_points = np.arange(len(block.points))
                self.compiled[WHOLE, index] = self._compile(
                    block, all_points, all_points[:0], self.tails.get(index)
                )

    def __getstate__(self) -> dict[str, Any]:
        """Without what is compiled from the rest."""
        compiled = ("compiled", "_small")
        return {name: value for name, value in vars(self).items() if name not in compiled}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Inverse of `__getstate__`."""
        vars(self).update(state, compiled={})
        self.__post_init__()

    def _compile(
        self,
        block: Block,
        sorting: IntArray,
        columns: IntArray,
        tail: FloatArray | None = None,
    ) -> Compiled:
        points = block.points[sorting]
        weights = self.weights[block.sparse][sorting]
        kernel = self.terms[block.term].kernel
        mean = None
        if tail is not None:
            assert isinstance(kernel, HasBeside)
            mean = kernel.completed(points, weights, tail)
        elif self.fast:
            mean = kernel.fast_mean(points, weights)
        return Compiled(points, weights, columns, mean)

    @property
    def terms(self) -> Sequence[BoundTerm]:
        """Terms of the model."""
        return self.design.terms

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, ascending."""
        return self.design.species

    @property
    def r_cut(self) -> float:
        """Largest radial cutoff [Å]."""
        return self.design.r_cut

    def spline_error(self, t: int) -> float | None:
        """Largest error of the splines of a term's means [eV]; None if it has none.

        Of an environment (a pair, a triplet), at random places between the nodes.

        Parameters
        ----------
        t : int
            Index of the term.
        """
        errors = [
            compiled.mean.errors[0]
            for (_, index), compiled in self.compiled.items()
            if self.design.blocks[index].term == t and isinstance(compiled.mean, Table)
        ]
        return max(errors, default=None)

    def blocks_of(self, z: int) -> Iterator[tuple[int, Block]]:
        """Blocks that local energies of a species depend on, with their indices."""
        return self.design.blocks_of(self.species[z])

    def prior(self, system: System) -> FloatArray:
        """Prior variance of every local energy [eV^2], shape (n_atoms,)."""
        z_index = system.z_index(self.species)
        constant = [
            constant_prior(self.terms, [block for _, block in self.blocks_of(z)])
            for z in range(len(self.species))
        ]
        if None not in constant:
            return np.array(constant, dtype=float)[z_index]
        found = np.empty(system.n_atoms)
        for start in range(0, system.n_atoms, BATCH):
            atoms = slice(start, min(start + BATCH, system.n_atoms))
            for part in self._species_runs(system, atoms)[1]:
                found[start + part.rows] = part.prior
        return found

    def evaluate(
        self,
        system: System,
        *,
        gradient: bool = True,
        variance: bool = False,
        novelty: bool = False,
        blend: Blend | None = None,
        n_threads: int = 1,
    ) -> LocalEvaluation:
        """Evaluate all atoms of a system.

        Parameters
        ----------
        system : System
            All pairs within the largest cutoff (longer ones are skipped). Of ghosts all is 0.
        gradient, variance, novelty : bool
            What to compute besides the energies.
        blend : Blend, optional
            The energy that is wanted, with its gradient, in place of the local energies.
        n_threads : int, optional
            Threads; the result does not depend on it.

        Returns
        -------
        LocalEvaluation
        """
        n_atoms = system.n_atoms

        def room(wanted: bool) -> FloatArray | None:
            return np.zeros(n_atoms) if wanted else None

        found = LocalEvaluation(
            Contribution.zero(system),
            room(variance),
            room(novelty),
            room(novelty),
            room(blend is not None),
            room(blend is not None),
        )
        by_keep = np.zeros(n_atoms)
        done = False
        if system.n_centers <= SMALL and not (variance or novelty) and self._small is not None:
            done = self._evaluate_small(self._small, system, blend, found, gradient, by_keep)
        if not done:
            self._evaluate_runs(system, blend, found, by_keep if gradient else None, n_threads)
        if blend is not None and gradient:
            blend.pull(system, by_keep, found.result)
        return found

    @cached_property
    def _small(self) -> SmallPass | None:
        """The short way of a few atoms, where there is one."""
        if not self.fast:
            return None
        fixed = self.variances if self.gauge_fixed is None else self.gauge_fixed
        return SmallPass.of(self.terms, self.compiled, self.variances, fixed)

    def _evaluate_small(
        self,
        small: SmallPass,
        system: System,
        blend: Blend | None,
        found: LocalEvaluation,
        gradient: bool,
        by_keep: FloatArray,
    ) -> bool:
        """Fill `found` in the short way; False, and nothing is filled in, where it is not one."""
        done = small.evaluate(system, blend, gradient, found.result)
        if done is None:
            return False
        variances, blended = done
        if blended is not None and found.added is not None and found.bound is not None:
            own = slice(0, system.n_centers)
            found.bound[own] = variances
            if blended.added is not None:
                found.added[own] = blended.added
            if blended.by_keep is not None:
                by_keep[own] = blended.by_keep
        return True

    def _evaluate_runs(
        self,
        system: System,
        blend: Blend | None,
        found: LocalEvaluation,
        by_keep: FloatArray | None,
        n_threads: int,
    ) -> None:
        """Fill `found`, run of atoms by run of atoms."""
        size = BATCH * min(len(self.species), MOST_BATCHES)
        if found.variance is not None:
            size = max(size, VARIANCE_BATCH)

        def work(start: int) -> list[TermRun]:
            atoms = slice(start, min(start + size, system.n_centers))
            return self._evaluate_run(system, atoms, blend, found, by_keep)

        starts = range(0, system.n_centers, size)
        with single_blas_thread():
            for later in map_in_order(work, starts, min(n_threads, max(1, len(starts)))):
                for run in later:
                    run.pull(found.result)
            for t, term in enumerate(self.terms):
                if not term.descriptor.has_centers:
                    self._add_whole(t, system, found.result, by_keep is not None)

    def _evaluate_run(
        self,
        system: System,
        atoms: slice,
        blend: Blend | None,
        found: LocalEvaluation,
        by_keep: FloatArray | None,
    ) -> list[TermRun]:
        """Fill the rows of `found` that belong to a run of atoms.

        The gradient is formed where there is room for the blend's own (`by_keep`).

        Returns
        -------
        list of TermRun
            What is still to be pulled, by one thread and in order: derivatives by positions of
            atoms that other runs have as well.
        """
        runs, species = self._species_runs(system, atoms)
        n = atoms.stop - atoms.start
        energies, variances = np.zeros(n), np.zeros(n)
        for part in species:
            rows = part.rows
            energies[rows] = part.mean()
            if found.variance is not None:
                variances[rows] = part.variance()
                found.variance[atoms.start + rows] = variances[rows]
            if blend is not None:
                variances[rows] = part.blend_variance(blend)
            if found.novelty is not None and found.prior is not None:
                found.novelty[atoms.start + rows] = part.novelty()
                found.prior[atoms.start + rows] = part.prior
        blended = None
        if blend is not None and found.added is not None and found.bound is not None:
            blended = blend(atoms, energies, variances)
            energies = blended.energies
            if blended.added is not None:
                found.added[atoms] = blended.added
            found.bound[atoms] = variances
            if by_keep is not None and blended.by_keep is not None:
                by_keep[atoms] = blended.by_keep
        found.energies[atoms] = energies
        if by_keep is None:
            return []
        for part in species:
            if blended is None or blend is None:
                part.pull_mean()
            else:
                rows = part.rows
                part.pull_blend(blended.by_energy[rows], blended.by_variance[rows], blend)
        later = []
        for term, run in zip(self.terms, runs, strict=True):
            if run is None:
                continue
            if is_long_ranged(term.descriptor):
                later.append(run)
            else:
                run.pull(found.result)
        return later

    def _species_runs(
        self, system: System, atoms: slice
    ) -> tuple[list[TermRun | None], list[SpeciesRun]]:
        """Environments of a run of atoms, term by term, and its atoms species by species."""
        runs = [
            TermRun(term, system, atoms) if term.descriptor.has_centers else None
            for term in self.terms
        ]
        z_run = system.z_index(self.species)[atoms]
        species = []
        for z in np.unique(z_run).tolist():
            rows = np.flatnonzero(z_run == z)
            parts = [
                self._part(z, index, block, runs[block.term], rows, atoms, z_run)
                for index, block in self.blocks_of(z)
            ]
            posterior = self.variances.get(z)
            fixed = posterior if self.gauge_fixed is None else self.gauge_fixed.get(z)
            species.append(SpeciesRun(z, rows, parts, posterior, fixed))
        return runs, species

    def _part(
        self,
        z: int,
        index: int,
        block: Block,
        run: TermRun | None,
        rows: IntArray,
        atoms: slice,
        z_run: IntArray,
    ) -> Part:
        """Environments of a block that belong to the atoms of a species in a run."""
        assert run is not None
        term = self.terms[block.term]
        members, at = rows, None
        if not term.descriptor.one_per_atom:
            key = term.descriptor.keys.index(block.key)
            center = run.found.center - atoms.start
            members = np.flatnonzero((run.found.key == key) & (z_run[center] == z))
            at = np.searchsorted(rows, center[members])
        return Part(block, term.kernel, self.compiled[z, index], run, members, at)

    def _add_whole(self, t: int, system: System, result: Contribution, gradient: bool) -> None:
        """Add a term whose environments are whole structures, shared equally by their atoms."""
        term = self.terms[t]
        run = TermRun(term, system, slice(0, system.n_atoms))
        energies = np.zeros(system.n_structures)
        for index, block in enumerate(self.design.blocks):
            if block.term != t:
                continue
            key = term.descriptor.keys.index(block.key)
            members = np.flatnonzero(run.found.key == key)
            part = Part(block, term.kernel, self.compiled[WHOLE, index], run, members, None)
            mean = part.evaluate_mean()
            np.add.at(energies, run.found.structure[members], part.weighted(mean))
            if gradient:
                part.pull_mean()
        sizes = np.diff(system.first_atom)
        result.energies[:] += np.repeat(energies / sizes, sizes)
        if gradient:
            run.pull(result)


def local_features(design: Design, system: System) -> tuple[FloatArray, FloatArray]:
    """Whitened covariance of every local energy with the sparse points, and its prior.

    Parameters
    ----------
    design : Design
    system : System

    Returns
    -------
    phi : ndarray of shape (n_atoms, n_columns)
        Without the column of the virial offset; terms without centers have no part.
    prior : ndarray of shape (n_atoms,)
        [eV^2].
    """
    phi, prior = np.zeros((system.n_atoms, design.layout.size)), np.zeros(system.n_atoms)
    for t, term in enumerate(design.terms):
        if not term.descriptor.has_centers:
            continue
        run = TermRun(term, system, slice(0, system.n_atoms))
        for block in design.blocks:
            if block.term != t:
                continue
            key = term.descriptor.keys.index(block.key)
            members = np.flatnonzero(run.found.key == key)
            whole = Compiled(block.points, np.zeros(0), np.arange(len(block.points)), None)
            center = run.found.center[members]
            at = None if len(members) == system.n_atoms else center
            if term.descriptor.one_per_atom:
                prior[center] += term.kernel.diagonal()
            else:
                at = center
            part = Part(block, term.kernel, whole, run, members, at)
            if not term.descriptor.one_per_atom:
                prior += part.prior(None, system.n_atoms)
            k = part.weighted(term.kernel(part.u, block.points))
            phi[:, block.columns] = block.whitened(part.summed(k, at, system.n_atoms))
    return phi, prior
