"""Environments of a run of atoms, and their energies block by block.

Kernels of environments are summed to atoms, and derivatives of atoms passed back to their
environments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np

from kernelpot.common.types import FloatArray, IntArray, SingleArray
from kernelpot.data.system import Contribution, System
from kernelpot.gp import _parts
from kernelpot.gp.blocks import Block, BoundTerm
from kernelpot.terms.base import FastMean, Kernel, PullsMembers


@dataclass(frozen=True)
class Compiled:
    """The sparse points of a block in the order that the variance of a species needs.

    Attributes
    ----------
    points : ndarray of shape (n_points, n_features)
    weights : ndarray of shape (n_points,)
    columns : ndarray of shape (n_used,)
        Places of the first of them in the order of the species' `LocalVariance`
        (ascending; points that repeat others come last and have none).
    mean : FastMean or None
        Closed form of the mean where that costs less than the kernel.
    """

    points: FloatArray
    weights: FloatArray
    columns: IntArray
    mean: FastMean | None


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
        self.system = system
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
        if len(members) == len(self.u):
            self.by_x = by_u  # in place
        _parts.to_features(by_u, np.ascontiguousarray(own), self.u, self.norm, members, self.by_x)
        if self.by_weight is not None and by_weight is not None:
            self.by_weight[members] = by_weight

    def pull(self, result: Contribution) -> None:
        """Add the derivatives by displacements to `result`."""
        self._term.descriptor.pull(self.system, self.found, self.by_x, self.by_weight, result)

    def pull_members(self, by_x: SingleArray, gradients: SingleArray) -> None:
        """Add the derivatives of several scalars to `gradients`; see `PullsMembers`."""
        descriptor = cast(PullsMembers, self._term.descriptor)
        descriptor.pull_members(self.system, self.found, by_x, gradients)


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
        if self.compiled.mean is not None:
            return self.by_u
        return self.kernel.contract(self.by_u, self.u, self.compiled.points)

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
