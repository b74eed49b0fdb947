"""Evaluating local energies, their variance, and exact gradients of either.

Per batch of atoms: density expansion, power spectrum, kernel (as a quadratic map for
zeta = 2 where that is cheaper), then one adjoint pass from a cotangent on the
features back to the pair displacements. Memory is that of the pairs and one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.neighbors import NeighborList
from kernelpot.gp.covariance import KernelTerm
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.terms.dot_product import DotProductKernel, normalize
from kernelpot.terms.soap import PairBatch

# Atoms evaluated together; more where variances are exact, as their large triangle is read
# anew for each batch. Fewer would leave fewer threads idle.
BATCH, VARIANCE_BATCH = 128, 256
# Of the points that explain most, this share screens: atoms whose variance they already
# bring below what matters need no more.
SCREEN_SHARE = 0.2
SCREEN_MINIMUM = 64


class Blend(Protocol):
    """An energy that depends on local energies and variances."""

    @property
    def gauge_fixed(self) -> bool:
        """Whether its variances are those of `LocalModel.gauge_fixed`."""

    def irrelevant_below(self, species: int) -> float:
        """Variance of an atom of a species below which its value does not matter [eV^2]."""

    def __call__(
        self, atoms: slice, energies: FloatArray, variances: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Energies of a run of atoms, and their derivatives by local energy and variance.

        Variances are exact, or upper bounds not above `irrelevant_below`.
        """


@dataclass(frozen=True)
class LocalEvaluation:
    """What one pass over all atoms yields.

    Attributes
    ----------
    energies : ndarray of shape (n_atoms,)
        Local energies [eV] (blended, if a blend was given).
    variance, novelty : ndarray of shape (n_atoms,) or None
        Posterior variance and its novelty part [eV^2].
    pair_gradient : ndarray of shape (n_pairs, 3) or None
        Derivative of the summed energies with respect to displacements [eV/Å].
    """

    energies: FloatArray
    variance: FloatArray | None
    novelty: FloatArray | None
    pair_gradient: FloatArray | None


@dataclass(frozen=True)
class _Compiled:
    """The sparse points of one species and term in the order their variance needs them.

    `columns` are their places in the order of the species' `LocalVariance` (ascending;
    points that repeat others come last and have none). `polynomial` is the exact map of
    unit features to the mean where that costs less than the kernel: a vector for
    zeta = 1, a symmetric matrix for zeta = 2, otherwise None.
    """

    points: FloatArray
    weights: FloatArray
    columns: IntArray
    polynomial: FloatArray | None


@dataclass
class LocalModel:
    """The fitted Gaussian process as a function of environments.

    Parameters
    ----------
    terms : sequence of KernelTerm
        Descriptors, kernels and sparse points.
    weights : mapping of (species, term) to ndarray of shape (n_sparse,)
        Weight of each sparse point [1/eV].
    whitening : mapping of (species, term) to ndarray of shape (n_sparse, rank)
        T with ``T.T @ K_mm @ T = I``.
    variances : mapping of species to LocalVariance
        Posterior of each species.
    gauge_fixed : mapping of species to LocalVariance, optional
        The same, given the mean local energy of each species. Data of one composition
        determine the energy of a molecule, but not how it is shared among species; this
        part of the variance says nothing of how well an environment is known. Default:
        `variances`.
    polynomial : bool, default=True
        Use exact polynomial maps where they cost less. False: the kernel always.
    """

    terms: Sequence[KernelTerm]
    weights: Mapping[tuple[int, int], FloatArray]
    whitening: Mapping[tuple[int, int], FloatArray]
    variances: Mapping[int, LocalVariance]
    gauge_fixed: Mapping[int, LocalVariance] | None = None
    polynomial: bool = True
    _compiled: dict[tuple[int, int], _Compiled] = field(
        default_factory=dict, init=False, repr=False
    )

    @single_blas_thread()  # the same bits after a fit and after loading
    def __post_init__(self) -> None:
        """Sort the sparse points, and compile polynomial maps where they cost less."""
        for z in {z for z, _ in self.weights}:
            found = self.terms_of(z)
            starts = np.cumsum([0] + [len(self.weights[z, t]) for t in found])
            order = self.variances[z].order
            for t, start, stop in zip(found, starts[:-1], starts[1:], strict=True):
                columns = np.flatnonzero((order >= start) & (order < stop))
                used = order[columns] - start
                sorting = np.concatenate([used, np.setdiff1d(np.arange(stop - start), used)])
                self._compiled[z, t] = self._compile(z, t, sorting, columns)

    def _compile(self, z: int, t: int, sorting: IntArray, columns: IntArray) -> _Compiled:
        kernel = self.terms[t].kernel
        points = self.terms[t].sparse[z][sorting]
        weights = self.weights[z, t][sorting]
        polynomial = None
        if not self.polynomial:
            pass
        elif kernel.zeta == 2 and points.shape[1] <= 2 * len(points):
            # sum_s alpha_s (p.q_s)^2 = p^T B p
            polynomial = kernel.diagonal() * (points.T * weights) @ points
        elif kernel.zeta == 1:
            polynomial = kernel.diagonal() * (weights @ points)
        return _Compiled(points, weights, columns, polynomial)

    def terms_of(self, z: int) -> list[int]:
        """Indices of the terms that have sparse points of a species."""
        return [t for t in range(len(self.terms)) if (z, t) in self.weights]

    def evaluate(
        self,
        z_index: IntArray,
        pairs: NeighborList,
        displacements: FloatArray,
        *,
        gradient: bool = True,
        variance: bool = False,
        novelty: bool = False,
        blend: Blend | None = None,
        n_threads: int = 1,
    ) -> LocalEvaluation:
        """Evaluate all atoms of a structure.

        Parameters
        ----------
        z_index : ndarray of shape (n_atoms,)
            Species index of each atom.
        pairs : NeighborList
            All pairs within the largest cutoff (longer ones are skipped).
        displacements : ndarray of shape (n_pairs, 3)
            Vectors from center to neighbor [Å].
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
        n_atoms = len(z_index)
        found = LocalEvaluation(
            np.empty(n_atoms),
            np.empty(n_atoms) if variance else None,
            np.empty(n_atoms) if novelty else None,
            np.zeros((pairs.n_pairs, 3)) if gradient else None,
        )
        batches = [
            term.soap.pairs(pairs.first, pairs.neighbors, displacements, z_index)
            for term in self.terms
        ]

        size = VARIANCE_BATCH if variance else BATCH

        def work(start: int) -> None:
            atoms = slice(start, min(start + size, n_atoms))
            self._evaluate_batch(batches, z_index[atoms], atoms, blend, found)

        starts = range(0, n_atoms, size)
        with single_blas_thread():
            for _ in map_in_order(work, starts, min(n_threads, len(starts))):
                pass
        return found

    def _evaluate_batch(
        self,
        batches: Sequence[PairBatch],
        z_batch: IntArray,
        atoms: slice,
        blend: Blend | None,
        result: LocalEvaluation,
    ) -> None:
        """Fill the rows of `result` that belong to a run of atoms."""
        start, stop = atoms.start, atoms.stop
        expansions, units, norms = [], [], []
        for term, batch in zip(self.terms, batches, strict=True):
            coefficients = term.soap.expansion(batch, start, stop)
            unit, norm = normalize(term.soap.features(coefficients))
            expansions.append(coefficients)
            units.append(unit)
            norms.append(norm)

        energies = np.zeros(stop - start)
        variances = np.zeros(stop - start)
        species: dict[int, _SpeciesBatch] = {}
        for z in np.unique(z_batch):
            rows = np.flatnonzero(z_batch == z)
            whole = len(rows) == stop - start
            own = [unit if whole else unit[rows] for unit in units]
            part = species[int(z)] = _SpeciesBatch(self, int(z), rows, own)
            energies[rows] = part.mean()
            if result.variance is not None:
                variances[rows] = part.variance()
                result.variance[start + rows] = variances[rows]
            if blend is not None:
                variances[rows] = part.blend_variance(blend)
            if result.novelty is not None:
                result.novelty[start + rows] = part.novelty()
        by_energy = by_variance = None
        if blend is not None:
            energies, by_energy, by_variance = blend(atoms, energies, variances)
        result.energies[atoms] = energies
        if result.pair_gradient is None:
            return

        cotangents = [np.zeros_like(unit) for unit in units]
        for part in species.values():
            if blend is not None and by_energy is not None and by_variance is not None:
                found = part.blended_slopes(by_energy[part.rows], by_variance[part.rows], blend)
            else:
                found = part.slopes()
            for t, slope, along in found:
                slope -= along[:, None] * part.units[t]
                cotangents[t][part.rows] = slope / norms[t][part.rows, None]
        for t, term in enumerate(self.terms):
            cotangent = cotangents[t]
            term.soap.pair_gradients(
                batches[t], start, stop, expansions[t], cotangent, result.pair_gradient
            )


class _SpeciesBatch:
    """The environments of one species among a run of atoms.

    Attributes
    ----------
    rows : ndarray
        Which atoms of the run.
    units : list of ndarray of shape (n_env, n_features)
        Their unit features, term by term.
    """

    def __init__(
        self, model: LocalModel, z: int, rows: IntArray, units: Sequence[FloatArray]
    ) -> None:
        self.rows, self.units = rows, units
        self._model, self._z = model, z
        # of the mean by the unit features (polynomials) or by the cosines, and its part
        # along the former
        self._slopes: dict[int, tuple[FloatArray, FloatArray]] = {}
        # dot products with the points, and the environments that have them all
        self._cosines: dict[int, FloatArray] = {}
        self._explained: _Explained | None = None

    def _parts(self) -> Iterator[tuple[int, DotProductKernel, _Compiled]]:
        for t in self._model.terms_of(self._z):
            yield t, self._model.terms[t].kernel, self._model._compiled[self._z, t]

    def mean(self) -> FloatArray:
        """Local energies [eV]; remembers their derivative."""
        energies = np.zeros(len(self.rows))
        for t, kernel, compiled in self._parts():
            unit, polynomial = self.units[t], compiled.polynomial
            if polynomial is None:
                cosine = self._cosines[t] = kernel.cosine(unit, compiled.points)
                value, slope, along = kernel.mean_and_slopes(cosine, compiled.weights)
            elif polynomial.ndim == 1:
                value = unit @ polynomial
                slope, along = np.tile(polynomial, (len(unit), 1)), value.copy()
            else:
                slope = unit @ polynomial
                value = np.einsum("ef,ef->e", slope, unit)
                slope *= 2.0
                along = 2.0 * value
            energies += value
            self._slopes[t] = slope, along
        return energies

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
            return exact.unexplained(self._explained.values)
        points = max(SCREEN_MINIMUM, int(SCREEN_SHARE * len(exact.order)))
        if points >= len(exact.order) or irrelevant < 0:
            return self._exact(exact)
        k, cosines = self._kernel(points)
        variances = exact.unexplained(exact.explain(k))
        open_ = np.flatnonzero(variances > irrelevant)
        if len(open_):
            variances[open_] = self._exact(exact, open_, cosines)
        return variances

    def novelty(self) -> FloatArray:
        """What the sparse points do not span of the prior variance [eV^2]."""
        novelty = np.full(len(self.rows), self._model.variances[self._z].prior)
        for t, kernel, _ in self._parts():
            k = kernel(self.units[t], self._model.terms[t].sparse[self._z])
            phi = k @ self._model.whitening[self._z, t]
            novelty -= np.einsum("em,em->e", phi, phi)
        return np.maximum(novelty, 0.0)

    def slopes(self) -> Iterator[tuple[int, FloatArray, FloatArray]]:
        """Derivative of the mean by the unit features of each term, and its part along them."""
        for t, _, compiled in self._parts():
            slope, along = self._slopes[t]
            yield t, slope if compiled.polynomial is not None else slope @ compiled.points, along

    def blended_slopes(
        self, by_energy: FloatArray, by_variance: FloatArray, blend: Blend
    ) -> Iterator[tuple[int, FloatArray, FloatArray]]:
        """The same of a blend, from its derivatives by mean and variance."""
        rows = np.flatnonzero(by_variance)
        by_kernel = None
        cosines: dict[int, FloatArray] = {}
        if len(rows):
            by_kernel, cosines = self._by_kernel(self._variance_of(blend), rows)
            by_kernel *= by_variance[rows, None]
        for t, kernel, compiled in self._parts():
            slope, along = self._slopes[t]
            slope *= by_energy[:, None]
            along *= by_energy
            points, cotangent = compiled.points, None
            if by_kernel is not None:
                n = len(compiled.columns)
                cotangent = np.ascontiguousarray(by_kernel[:, compiled.columns])
                along[rows] += kernel.weigh_slopes(cosines[t][:, :n], cotangent)
                if compiled.polynomial is None:
                    slope[rows, :n] += cotangent
                else:
                    slope[rows] += cotangent @ points[:n]
            yield t, slope if compiled.polynomial is not None else slope @ points, along

    def _variance_of(self, blend: Blend) -> LocalVariance:
        model = self._model
        fixed = model.gauge_fixed if blend.gauge_fixed else None
        return (model.variances if fixed is None else fixed)[self._z]

    def _exact(
        self,
        posterior: LocalVariance,
        rows: IntArray | None = None,
        known: Mapping[int, FloatArray] | None = None,
    ) -> FloatArray:
        """Variances of some of the environments; remembers what their gradient needs."""
        k, cosines = self._kernel(None, rows, known)
        self._explained = _Explained(
            posterior,
            np.arange(len(self.rows)) if rows is None else rows,
            posterior.explain(k),
            cosines,
        )
        return posterior.unexplained(self._explained.values)

    def _by_kernel(
        self, posterior: LocalVariance, rows: IntArray
    ) -> tuple[FloatArray, dict[int, FloatArray]]:
        """Gradient of the variance of environments by their kernel, and their cosines."""
        found = self._explained
        if found is None or found.posterior is not posterior or np.setdiff1d(rows, found.rows).size:
            self._exact(posterior, rows)
            found = self._explained
        assert found is not None
        self._explained = None  # the gradient takes its place
        if len(rows) == len(found.rows):
            return posterior.gradient_of(found.values), found.cosines
        at = np.searchsorted(found.rows, rows)
        cosines = {t: cosine[at] for t, cosine in found.cosines.items()}
        return posterior.gradient_of(found.values[at]), cosines

    def _kernel(
        self,
        n_points: int | None,
        rows: IntArray | None = None,
        known: Mapping[int, FloatArray] | None = None,
    ) -> tuple[FloatArray, dict[int, FloatArray]]:
        """Kernel with the points of the variance, in its order, and the cosines behind it.

        Parameters
        ----------
        n_points : int or None
            The first of the points only.
        rows : ndarray, optional
            Some of the environments.
        known : mapping of term to ndarray, optional
            Cosines of all environments with the first points of each term.
        """
        if n_points is None:
            n_points = len(self._model.variances[self._z].order)
        k = np.empty((len(self.rows) if rows is None else len(rows), n_points))
        cosines: dict[int, FloatArray] = {}
        for t, kernel, compiled in self._parts():
            n = int(np.searchsorted(compiled.columns, n_points))
            if t in self._cosines:
                cosine = self._cosines[t] if rows is None else self._cosines[t][rows]
            else:
                unit = self.units[t] if rows is None else self.units[t][rows]
                start = None if known is None or rows is None else known[t][rows]
                n_start = 0 if start is None else start.shape[1]
                cosine = kernel.cosine(unit, compiled.points[n_start:n])
                if start is not None:
                    cosine = np.concatenate([start, cosine], axis=1)
            kernel.fill(cosine, compiled.columns[:n], k)
            cosines[t] = cosine
        return k, cosines


@dataclass(frozen=True)
class _Explained:
    """What gave the variances of some environments, for their gradient.

    Attributes
    ----------
    posterior : LocalVariance
    rows : ndarray of shape (n_env,)
        Which environments of the batch, ascending.
    values : ndarray of shape (n_env, rank)
        From `LocalVariance.explain`.
    cosines : dict of term to ndarray
        Dot products with (at least) the points that the variance uses.
    """

    posterior: LocalVariance
    rows: IntArray
    values: FloatArray
    cosines: dict[int, FloatArray]
