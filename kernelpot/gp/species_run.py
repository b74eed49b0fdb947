"""Local energies and variances of the atoms of one species in a run of atoms.

An atom's local energy is a sum over its environments in all terms: one in a descriptor such
as SOAP, many in one of pairs. Here kernels are summed to atoms, and derivatives of atoms
passed back to their environments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import Contribution, System
from kernelpot.gp.blocks import Block, BoundTerm
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.regression.novelty import novelty
from kernelpot.terms.base import Kernel

if TYPE_CHECKING:
    from kernelpot.gp.local import Blend, Compiled, LocalModel

# Of the points that explain most, this share screens: atoms whose variance they already
# bring below what matters need no more.
SCREEN_SHARE = 0.2
SCREEN_MINIMUM = 64


class TermRun:
    """The environments of a run of atoms in one term, and a scalar's derivatives by them.

    Attributes
    ----------
    found : Environments
    u, norm : ndarray
        Embedded features, and what their derivatives are divided by.
    by_x : ndarray of shape (n_env, n_features)
    by_weight : ndarray of shape (n_env,) or None
    """

    def __init__(self, term: BoundTerm, system: System, atoms: slice) -> None:
        self._term = term
        self._system = system
        self.found = term.descriptor.environments(system, atoms)
        self.u, self.norm = term.kernel.embed(self.found.x)
        self.by_weight = None if self.found.weight is None else np.zeros(len(self.found))

    @cached_property
    def by_x(self) -> FloatArray:
        """Nothing yet."""
        return np.zeros_like(self.u)

    def set_gradient(
        self, members: IntArray, by_u: FloatArray, own: FloatArray, by_weight: FloatArray | None
    ) -> None:
        """Take the derivatives of some environments.

        Parameters
        ----------
        members : ndarray of shape (n,)
        by_u : ndarray of shape (n, n_features)
            Sum over points of derivatives by similarities times points; destroyed.
        own : ndarray of shape (n,)
            The part along the environments' own features.
        by_weight : ndarray of shape (n,) or None
        """
        whole = len(members) == len(self.u)
        by_u -= own[:, None] * (self.u if whole else self.u[members])
        self.by_x[members] = by_u / self.norm[members, None]
        if self.by_weight is not None and by_weight is not None:
            self.by_weight[members] = by_weight

    def pull(self, result: Contribution) -> None:
        """Add the derivatives by displacements to `result`."""
        self._term.descriptor.pull(self._system, self.found, self.by_x, self.by_weight, result)


@dataclass
class Part:
    """The environments of one block that belong to atoms of one species.

    Attributes
    ----------
    block : Block
    kernel : Kernel
    compiled : Compiled
        The block's points in the order of the species' variance.
    run : TermRun
    members : ndarray of shape (n_env,)
        Which environments of the run.
    at : ndarray of shape (n_env,) or None
        The atom (among those of the species) of each, ascending; None: one each, in order.
    similarity : ndarray or None
        With all points, once the mean was evaluated by the kernel.
    mean, by_u, own : ndarray
        Once the mean was evaluated: of each environment, its derivative by embedded
        features (by similarities, where the kernel was evaluated) and the part of that
        along them.
    """

    block: Block
    kernel: Kernel
    compiled: Compiled
    run: TermRun
    members: IntArray
    at: IntArray | None
    similarity: FloatArray | None = None
    mean: FloatArray = field(default_factory=lambda: np.empty(0))
    by_u: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    own: FloatArray = field(default_factory=lambda: np.empty(0))

    @cached_property
    def u(self) -> FloatArray:
        """Embedded features."""
        whole = len(self.members) == len(self.run.u)
        return self.run.u if whole else self.run.u[self.members]

    @cached_property
    def weight(self) -> FloatArray | None:
        """Smooth factor of each environment's energy."""
        weight = self.run.found.weight
        return None if weight is None else weight[self.members]

    def of_atoms(self, atoms: IntArray | None) -> tuple[IntArray | slice, IntArray | None]:
        """Environments of some of the atoms, and the place of each one's atom among them."""
        if atoms is None:
            return slice(None), self.at
        if self.at is None:
            return atoms, None
        which = np.flatnonzero(np.isin(self.at, atoms))
        return which, np.searchsorted(atoms, self.at[which])

    def summed(self, values: FloatArray, at: IntArray | None, n_atoms: int) -> FloatArray:
        """Sum values of environments to those of their atoms, along the first axis."""
        if at is None:
            return values
        total = np.zeros((n_atoms, *values.shape[1:]))
        if len(at):
            runs = np.flatnonzero(np.r_[True, at[1:] != at[:-1]])
            total[at[runs]] = np.add.reduceat(values, runs, axis=0)
        return total

    def weighted(self, values: FloatArray, which: IntArray | slice = slice(None)) -> FloatArray:
        """Values of some environments times their weights."""
        if self.weight is None:
            return values
        weight = self.weight[which]
        return values * weight.reshape(-1, *[1] * (values.ndim - 1))

    def evaluate_mean(self) -> FloatArray:
        """Energies of the environments; remembers their derivative."""
        if self.compiled.mean is not None:
            self.mean, self.by_u, self.own = self.compiled.mean(self.u)
        else:
            self.similarity = self.kernel.similarity(self.u, self.compiled.points)
            self.mean, self.by_u, self.own = self.kernel.mean_and_slopes(
                self.similarity, self.compiled.weights
            )
        return self.mean

    def by_features(self) -> FloatArray:
        """Derivative of the energies by embedded features, but for the part along them."""
        return self.by_u if self.compiled.mean is not None else self.by_u @ self.compiled.points

    def pull_mean(self) -> None:
        """Hand the derivative of the summed energies to the term."""
        if self.weight is not None:
            self.by_u *= self.weight[:, None]
            self.own = self.own * self.weight
        self.run.set_gradient(self.members, self.by_features(), self.own, self.mean)

    def prior(self, atoms: IntArray | None, n_atoms: int) -> FloatArray | float:
        """Prior variances of some atoms' shares of the energy [eV^2]."""
        if self.at is None:
            return self.kernel.diagonal()
        total = np.zeros(n_atoms)
        for place, which in self._groups(atoms):
            w = self._weights_of(which)
            total[place] = w @ self.kernel.values(self._gram(which)) @ w
        return total

    def prior_gradient(
        self, atoms: IntArray, by_prior: FloatArray
    ) -> Iterator[tuple[IntArray, FloatArray, FloatArray, FloatArray]]:
        """Derivatives of a weighted sum of prior variances, atom by atom.

        Yields
        ------
        which : ndarray of shape (n,)
            Environments.
        by_u, own, by_weight
            As `TermRun.set_gradient` takes them.
        """
        for place, which in self._groups(atoms):
            w, similarity = self._weights_of(which), self._gram(which)
            factor = 2.0 * by_prior[place]
            slopes = factor * w[:, None] * w * self.kernel.slopes(similarity)
            own = (slopes * self.kernel.own(similarity)).sum(axis=1)
            by_weight = factor * (self.kernel.values(similarity) @ w)
            yield which, slopes @ self.u[which], own, by_weight

    def _groups(self, atoms: IntArray | None) -> Iterator[tuple[int, IntArray]]:
        """Environments of each of some atoms that has any, with the atom's place."""
        which, at = self.of_atoms(atoms)
        assert at is not None
        indices = np.arange(len(self.members))[which]
        starts = np.flatnonzero(np.r_[True, at[1:] != at[:-1]][: len(at)])
        for start, stop in zip(starts, [*starts[1:], len(at)][: len(starts)], strict=True):
            yield int(at[start]), indices[start:stop]

    def _weights_of(self, which: IntArray) -> FloatArray:
        return np.ones(len(which)) if self.weight is None else self.weight[which]

    def _gram(self, which: IntArray) -> FloatArray:
        own = self.u[which]
        return self.kernel.similarity(own, own)


def constant_prior(terms: Sequence[BoundTerm], blocks: Sequence[Block]) -> float | None:
    """Prior variance of a local energy where it depends on no environment, else None [eV^2].

    Parameters
    ----------
    terms : sequence of BoundTerm
    blocks : sequence of Block
        Those that the local energy depends on.
    """
    own = [terms[block.term] for block in blocks]
    if not all(term.descriptor.one_per_atom for term in own):
        return None
    return float(sum(term.kernel.diagonal() for term in own))


class SpeciesRun:
    """The atoms of one species among a run of atoms.

    Parameters
    ----------
    model : LocalModel
    z : int
        Species index.
    rows : ndarray of shape (n_atoms,)
        Which atoms of the run.
    runs : sequence of TermRun or None
        Environments of the run, term by term.
    atoms : slice
        The run.
    z_run : ndarray
        Species index of each atom of the run.
    """

    def __init__(
        self,
        model: LocalModel,
        z: int,
        rows: IntArray,
        runs: Sequence[TermRun | None],
        atoms: slice,
        z_run: IntArray,
    ) -> None:
        self.rows = rows
        self._model, self._z = model, z
        self.parts: list[Part] = []
        for index, block in model.blocks_of(z):
            run, term = runs[block.term], model.terms[block.term]
            assert run is not None
            at = None
            members = rows
            if not term.descriptor.one_per_atom:
                key = term.descriptor.keys.index(block.key)
                center = run.found.center - atoms.start
                members = np.flatnonzero((run.found.key == key) & (z_run[center] == z))
                at = np.searchsorted(rows, center[members])
            compiled = model.compiled[z, index]
            self.parts.append(Part(block, term.kernel, compiled, run, members, at))
        self._explained: _Explained | None = None

    # ---- values --------------------------------------------------------------------

    def mean(self) -> FloatArray:
        """Local energies [eV]; remembers their derivative."""
        energies = np.zeros(len(self.rows))
        for part in self.parts:
            values = part.weighted(part.evaluate_mean())
            energies += part.summed(values, part.at, len(self.rows))
        return energies

    @cached_property
    def prior(self) -> FloatArray:
        """Prior variances [eV^2]."""
        return self._prior(None)

    def _prior(self, atoms: IntArray | None) -> FloatArray:
        n = len(self.rows) if atoms is None else len(atoms)
        total: FloatArray | float = 0.0
        for part in self.parts:
            total = total + part.prior(atoms, n)
        return np.broadcast_to(np.asarray(total, dtype=float), (n,))

    def variance(self) -> FloatArray:
        """Posterior variances [eV^2]."""
        return self._exact(self._model.variances[self._z])

    def blend_variance(self, blend: Blend) -> FloatArray:
        """Variances for a blend, or upper bounds of them that do not matter to it [eV^2]."""
        irrelevant = blend.irrelevant_below(self._z)
        if irrelevant == np.inf:
            return np.zeros(len(self.rows))
        exact = self._variance_of(blend)
        if self._explained is not None and self._explained.posterior is exact:
            return exact.unexplained(self.prior, self._explained.values)
        points = max(SCREEN_MINIMUM, int(SCREEN_SHARE * len(exact.order)))
        if points >= len(exact.order) or irrelevant < 0:
            return self._exact(exact)
        k, similarities = self._kernel(points)
        variances = exact.unexplained(self.prior, exact.explain(k))
        open_ = np.flatnonzero(variances > irrelevant)
        if len(open_):
            variances[open_] = self._exact(exact, open_, similarities)
        return variances

    def novelty(self) -> FloatArray:
        """What the sparse points do not span of the prior variance [eV^2]."""
        phi = []
        for part in self.parts:
            k = part.kernel(part.u, part.block.points)
            phi.append(part.summed(part.weighted(k), part.at, len(self.rows)) @ part.block.T)
        return novelty(np.concatenate(phi, axis=1), self.prior)

    # ---- derivatives ---------------------------------------------------------------

    def pull_mean(self) -> None:
        """Hand the derivative of the summed local energies to the terms."""
        for part in self.parts:
            part.pull_mean()

    def pull_blend(self, by_energy: FloatArray, by_variance: FloatArray, blend: Blend) -> None:
        """Hand a blend's derivative to the terms, from those by mean and variance."""
        atoms = np.flatnonzero(by_variance)
        by_kernel = None
        similarities: dict[int, FloatArray] = {}
        if len(atoms):
            by_kernel, similarities = self._by_kernel(self._variance_of(blend), atoms)
            by_kernel *= by_variance[atoms, None]
        for index, part in enumerate(self.parts):
            factor = by_energy if part.at is None else by_energy[part.at]
            by_weight = None if part.weight is None else factor * part.mean
            factor = part.weighted(factor)
            part.by_u *= factor[:, None]
            part.own *= factor
            if by_kernel is not None:
                self._add_variance(part, atoms, by_kernel, similarities[index], by_weight)
            by_features = part.by_features()
            if part.at is not None and len(atoms):
                for which, by_u, own, weights in part.prior_gradient(atoms, by_variance[atoms]):
                    by_features[which] += by_u
                    part.own[which] += own
                    if by_weight is not None:
                        by_weight[which] += weights
            part.run.set_gradient(part.members, by_features, part.own, by_weight)

    def _add_variance(
        self,
        part: Part,
        atoms: IntArray,
        by_kernel: FloatArray,
        similarity: FloatArray,
        by_weight: FloatArray | None,
    ) -> None:
        """Add what the explained variance of some atoms contributes to the derivatives."""
        points, n = part.compiled.points, len(part.compiled.columns)
        which, at = part.of_atoms(atoms)
        cotangent = np.ascontiguousarray(by_kernel[:, part.compiled.columns])
        if at is not None:
            cotangent = cotangent[at]
        known = similarity[:, :n]
        if by_weight is not None:
            by_weight[which] += np.einsum("em,em->e", cotangent, part.kernel.values(known))
        cotangent = part.weighted(cotangent, which)
        part.own[which] += part.kernel.weigh_slopes(known, cotangent)
        if part.compiled.mean is None:
            part.by_u[which, :n] += cotangent
        else:
            part.by_u[which] += cotangent @ points[:n]

    def _variance_of(self, blend: Blend) -> LocalVariance:
        model = self._model
        fixed = model.gauge_fixed if blend.gauge_fixed else None
        return (model.variances if fixed is None else fixed)[self._z]

    def _exact(
        self,
        posterior: LocalVariance,
        atoms: IntArray | None = None,
        known: Mapping[int, FloatArray] | None = None,
    ) -> FloatArray:
        """Variances of some of the atoms; remembers what their gradient needs."""
        k, similarities = self._kernel(None, atoms, known)
        self._explained = _Explained(
            posterior,
            np.arange(len(self.rows)) if atoms is None else atoms,
            posterior.explain(k),
            similarities,
        )
        prior = self.prior if atoms is None else self.prior[atoms]
        return posterior.unexplained(prior, self._explained.values)

    def _by_kernel(
        self, posterior: LocalVariance, atoms: IntArray
    ) -> tuple[FloatArray, dict[int, FloatArray]]:
        """Gradient of the variance of atoms by their kernel, and the similarities behind it."""
        found = self._explained
        known = found is not None and found.posterior is posterior
        if found is None or not known or np.setdiff1d(atoms, found.atoms).size:
            self._exact(posterior, atoms)
            found = self._explained
        assert found is not None
        self._explained = None  # the gradient takes its place
        if len(atoms) == len(found.atoms):
            return posterior.gradient_of(found.values), found.similarities
        place = np.searchsorted(found.atoms, atoms)
        similarities = {}
        for index, part in enumerate(self.parts):
            own = place
            if part.at is not None:  # environments of the atoms among those of all found
                _, at = part.of_atoms(found.atoms)
                assert at is not None
                own = np.flatnonzero(np.isin(at, place))
            similarities[index] = found.similarities[index][own]
        return posterior.gradient_of(found.values[place]), similarities

    def _kernel(
        self,
        n_points: int | None,
        atoms: IntArray | None = None,
        known: Mapping[int, FloatArray] | None = None,
    ) -> tuple[FloatArray, dict[int, FloatArray]]:
        """Kernel of atoms with the points of the variance, in its order, and what is behind.

        Parameters
        ----------
        n_points : int or None
            The first of the points only.
        atoms : ndarray, optional
            Some of the atoms.
        known : mapping of part to ndarray, optional
            Similarities of all environments with the first points of each part.

        Returns
        -------
        k : ndarray of shape (n_atoms, n_points)
        similarities : dict of part to ndarray of shape (n_env, n)
        """
        if n_points is None:
            n_points = len(self._model.variances[self._z].order)
        n_atoms = len(self.rows) if atoms is None else len(atoms)
        k = np.empty((n_atoms, n_points))
        similarities: dict[int, FloatArray] = {}
        for index, part in enumerate(self.parts):
            which, at = part.of_atoms(atoms)
            n = int(np.searchsorted(part.compiled.columns, n_points))
            if part.similarity is not None:
                similarity = part.similarity[which]
            else:
                u = part.u[which]
                start = None if known is None or atoms is None else known[index][which]
                n_start = 0 if start is None else start.shape[1]
                similarity = part.kernel.similarity(u, part.compiled.points[n_start:n])
                if start is not None:
                    similarity = np.concatenate([start, similarity], axis=1)
            columns = part.compiled.columns[:n]
            if at is None:
                part.kernel.fill(similarity, columns, k)
            else:
                values = part.weighted(part.kernel.values(similarity[:, :n]), which)
                k[:, columns] = part.summed(values, at, n_atoms)
            similarities[index] = similarity
        return k, similarities


@dataclass(frozen=True)
class _Explained:
    """What gave the variances of some atoms, for their gradient.

    Attributes
    ----------
    posterior : LocalVariance
    atoms : ndarray of shape (n_atoms,)
        Which atoms, ascending.
    values : ndarray of shape (n_atoms, rank)
        From `LocalVariance.explain`.
    similarities : dict of part to ndarray
        With (at least) the points that the variance uses.
    """

    posterior: LocalVariance
    atoms: IntArray
    values: FloatArray
    similarities: dict[int, FloatArray]
