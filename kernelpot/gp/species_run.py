"""Local energies and variances of the atoms of one species in a run of atoms.

An atom's local energy is a sum over its environments in all terms: one in a descriptor such
as SOAP, many in one of pairs. Here kernels are summed to atoms, and derivatives of atoms
passed back to their environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.gp.blend import Blend
from kernelpot.gp.parts import Part
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.regression.novelty import novelty

# Of the points that explain most, these shares screen in turn: atoms whose variance they
# already bring below what matters need no more. The cost grows with the square of the share.
SCREEN_SHARES = (0.2, 0.4)
SCREEN_MINIMUM = 64


def screens_of(n_points: int) -> list[int]:
    """Numbers of leading points that screen in turn, ascending; fewer than there are.

    Parameters
    ----------
    n_points : int
    """
    screens = {max(SCREEN_MINIMUM, int(share * n_points)) for share in SCREEN_SHARES}
    return sorted(points for points in screens if points < n_points)


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


@dataclass(frozen=True)
class _Known:
    """Similarities of the environments of some atoms with the first points of each part.

    Attributes
    ----------
    atoms : ndarray or None
        None: all.
    similarities : mapping of part to ndarray of shape (n_env, n)
    """

    atoms: IntArray | None
    similarities: Mapping[int, FloatArray]

    def rows(self, part: Part, index: int, which: IntArray | slice) -> FloatArray:
        """Those of environments of some of the atoms."""
        mine, found = part.of_atoms(self.atoms)[0], self.similarities[index]
        if isinstance(mine, slice) or isinstance(which, slice):
            return found[which]
        return found[np.searchsorted(mine, which)]


class SpeciesRun:
    """The atoms of one species among a run of atoms.

    Parameters
    ----------
    z : int
        Species index.
    rows : ndarray of shape (n_atoms,)
        Which atoms of the run.
    parts : list of Part
        Their environments, block by block.
    posterior, gauge_fixed : LocalVariance or None
        Of their energies, and given those of the data; None without parts.
    """

    def __init__(
        self,
        z: int,
        rows: IntArray,
        parts: list[Part],
        posterior: LocalVariance | None,
        gauge_fixed: LocalVariance | None,
    ) -> None:
        self.rows, self.parts = rows, parts
        self._z = z
        self._posterior, self._gauge_fixed = posterior, gauge_fixed
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
        """Posterior variances [eV^2]; zero where no term has an energy of these atoms."""
        if self._posterior is None:
            return np.zeros(len(self.rows))
        return self._exact(self._posterior)

    def blend_variance(self, blend: Blend) -> FloatArray:
        """Variances for a blend, or upper bounds of them that do not matter to it [eV^2]."""
        irrelevant = blend.irrelevant_below(self._z)
        exact = self._variance_of(blend)
        if irrelevant == np.inf or exact is None:
            return np.zeros(len(self.rows))
        if self._explained is not None and self._explained.posterior is exact:
            return exact.unexplained(self.prior, self._explained.values)
        screens = screens_of(len(exact.order))
        variances = self.prior.copy()
        open_: IntArray | None = None  # None: all
        known = None
        for points in screens if irrelevant >= 0 else []:
            some = slice(None) if open_ is None else open_
            k, similarities = self._kernel(points, open_, known)
            known = _Known(open_, similarities)
            variances[some] = exact.unexplained(self.prior[some], exact.explain(k))
            left = np.flatnonzero(variances > irrelevant)
            if not len(left):
                return variances
            open_ = None if len(left) == len(variances) else left
        variances[slice(None) if open_ is None else open_] = self._exact(exact, open_, known)
        return variances

    def novelty(self) -> FloatArray:
        """What the sparse points do not span of the prior variance [eV^2]."""
        phi = [np.zeros((len(self.rows), 0))]
        for part in self.parts:
            k = part.kernel(part.u, part.block.points)
            phi.append(part.block.whitened(part.summed(part.weighted(k), part.at, len(self.rows))))
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
        posterior = self._variance_of(blend)
        if len(atoms) and posterior is not None:
            by_kernel, similarities = self._by_kernel(posterior, atoms)
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
            part.by_u[which] += part.kernel.contract(cotangent, part.u[which], points[:n])

    def _variance_of(self, blend: Blend) -> LocalVariance | None:
        return self._gauge_fixed if blend.gauge_fixed else self._posterior

    def _exact(
        self,
        posterior: LocalVariance,
        atoms: IntArray | None = None,
        known: _Known | None = None,
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
        known: _Known | None = None,
    ) -> tuple[FloatArray, dict[int, FloatArray]]:
        """Kernel of atoms with the points of the variance, in its order, and what is behind.

        Parameters
        ----------
        n_points : int or None
            The first of the points only.
        atoms : ndarray, optional
            Some of the atoms.
        known : _Known, optional
            Of these atoms and others.

        Returns
        -------
        k : ndarray of shape (n_atoms, n_points)
        similarities : dict of part to ndarray of shape (n_env, n)
        """
        if n_points is None:
            n_points = 0 if self._posterior is None else len(self._posterior.order)
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
                start = None if known is None else known.rows(part, index, which)
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
