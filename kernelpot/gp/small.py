"""Molecules: whole quadratic forms of a few atoms, evaluated in as few passes as there can be.

For a few atoms it is not operations that cost, but the calls between them and reading the maps
and matrices of each species. `kernelpot.gp.local` evaluates species by species in general steps,
each of which goes through the memory again; here the map of a species is read once, and so are the
matrices that bound its variances, as far as they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernelpot.common.parallel import single_blas_thread
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import Contribution, System
from kernelpot.gp import _quadratic
from kernelpot.gp.blend import Blend, Blended
from kernelpot.gp.blocks import BoundTerm
from kernelpot.gp.parts import Compiled
from kernelpot.gp.species_run import screens_of
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.terms.compression import CompressedDescriptor
from kernelpot.terms.polynomial import LeadingQuadratic, PolynomialKernel, factors

# Up to so many atoms; more are as fast in matrix products.
SMALL = 24


@dataclass(frozen=True)
class _Screen:
    """What variances of a species are bounded with.

    Attributes
    ----------
    index, factor : ndarray of shape (n, 2) and (n,)
        Monomials in the order of the variance, with their covariances' factors [eV^2].
    triangle : ndarray of shape (n_leading, n_leading)
        Leading block of its reduction, by rows.
    stages : ndarray of int
        Numbers of leading monomials after which it is seen who needs more.
    whole : LocalVariance
    """

    index: IntArray
    factor: FloatArray
    triangle: FloatArray
    stages: IntArray
    whole: LocalVariance

    @classmethod
    def of(
        cls, compiled: Compiled, kernel: PolynomialKernel, variance: LocalVariance
    ) -> _Screen | None:
        """None where the order of the variance is not that of the monomials."""
        n = len(variance.order)
        if not np.array_equal(compiled.columns, np.arange(n)):
            return None
        stages = np.array(screens_of(n), dtype=np.int64)
        leading = int(stages.max(initial=0))
        index = np.asarray(compiled.points[:n], dtype=np.int64)
        return cls(
            index,
            kernel.diagonal() * factors(index),
            np.ascontiguousarray(variance.reduction[:leading, :leading]),
            stages,
            variance,
        )

    def bound(
        self, u: FloatArray, rows: IntArray, prior: float, enough: float, out: FloatArray
    ) -> bool:
        """Fill in variances that are exact, or not above `enough`; whether all are the latter."""
        left = rows
        if len(self.stages):
            monomials = self.index, self.factor, self.triangle, self.stages
            if not _quadratic.screen(u, rows, *monomials, prior, enough, out):
                return True
            left = rows[out[rows] > enough]
        k = self.factor * u[left][:, self.index[:, 0]] * u[left][:, self.index[:, 1]]
        with single_blas_thread():
            out[left] = self.whole.unexplained(prior, self.whole.explain(k))
        return not np.any(out[left] > enough)


class SmallPass:
    """A model of one polynomial term of the second degree, for few atoms.

    Parameters
    ----------
    descriptor : CompressedDescriptor
    kernel : PolynomialKernel
    compiled : mapping of int to Compiled
        Of each species that has monomials.
    posterior, gauge_fixed : mapping of int to LocalVariance
        As of `kernelpot.gp.local.LocalModel`.
    """

    def __init__(
        self,
        descriptor: CompressedDescriptor,
        kernel: PolynomialKernel,
        compiled: Mapping[int, Compiled],
        posterior: Mapping[int, LocalVariance],
        gauge_fixed: Mapping[int, LocalVariance],
    ) -> None:
        self._descriptor, self._kernel = descriptor, kernel
        self._compiled = compiled
        self._forms = {
            species: descriptor.form_of(found.mean.matrix)
            for species, found in compiled.items()
            if isinstance(found.mean, LeadingQuadratic)
        }
        self._variances = {False: posterior, True: gauge_fixed}
        self._screens: dict[tuple[bool, int], _Screen | None] = {}

    @classmethod
    def of(
        cls,
        terms: Sequence[BoundTerm],
        compiled: Mapping[tuple[int, int], Compiled],
        posterior: Mapping[int, LocalVariance],
        gauge_fixed: Mapping[int, LocalVariance],
    ) -> SmallPass | None:
        """The pass of a model, None where it is not of the kind.

        Parameters
        ----------
        terms : sequence of BoundTerm
        compiled : mapping of (species, block) to Compiled
        posterior, gauge_fixed : mapping of int to LocalVariance
        """
        if len(terms) != 1 or len({species for species, _ in compiled}) != len(compiled):
            return None
        descriptor, kernel = terms[0].descriptor, terms[0].kernel
        if not isinstance(descriptor, CompressedDescriptor):
            return None
        if not isinstance(kernel, PolynomialKernel) or kernel.degree != 2:
            return None
        own = {species: found for (species, _), found in compiled.items()}
        return cls(descriptor, kernel, own, posterior, gauge_fixed)

    def _screen(self, gauge_fixed: bool, species: int) -> _Screen | None:
        """Made when it is first needed."""
        key = gauge_fixed, species
        if key not in self._screens:
            variance = self._variances[gauge_fixed].get(species)
            self._screens[key] = (
                None
                if variance is None
                else _Screen.of(self._compiled[species], self._kernel, variance)
            )
        return self._screens[key]

    def evaluate(
        self, system: System, blend: Blend | None, gradient: bool, result: Contribution
    ) -> tuple[FloatArray, Blended | None] | None:
        """Add energies of all atoms and their derivatives.

        Parameters
        ----------
        system : System
        blend : Blend, optional
        gradient : bool
        result : Contribution

        Returns
        -------
        variances, blended : ndarray of shape (n_atoms,) and Blended
            Those of the blend, if there is one. None, and nothing is added, where this is not the
            way to the result: a variance matters, or a species has no form.
        """
        atoms = slice(0, system.n_centers)
        z = system.z_index(self._descriptor.species)[atoms]
        present = np.flatnonzero(np.bincount(z)).tolist()
        if not all(species in self._forms for species in present):
            return None
        if blend is not None and any(blend.irrelevant_below(s) < 0 for s in present):
            return None
        inner = self._descriptor.inner.environments(system, atoms)
        energies, u, by_inner = self._descriptor.quadratic(
            inner, {species: self._forms[species] for species in present}
        )
        variances, blended = np.zeros(len(z)), None
        if blend is not None:
            for species in present:
                enough = blend.irrelevant_below(species)
                if enough == np.inf:
                    continue
                screen = self._screen(blend.gauge_fixed, species)
                rows = np.flatnonzero(z == species)
                prior = self._kernel.diagonal()
                if screen is None or not screen.bound(u, rows, prior, enough, variances):
                    return None
            blended = blend(atoms, energies, variances)
            if blended.by_variance.any():
                return None
            energies = blended.energies
            by_inner *= blended.by_energy[:, None]
        result.energies[atoms] = energies
        if gradient:
            self._descriptor.inner.pull(system, inner, by_inner, None, result)
        return variances, blended
