"""Evaluating local energies, their variance, and exact gradients of either.

Per batch of atoms: density expansion, power spectrum, kernel (as a quadratic map for
zeta = 2 where that is cheaper), then one adjoint pass from a cotangent on the
features back to the pair displacements. Memory is that of the pairs and one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kernelpot.covariance import KernelTerm
from kernelpot.descriptors import PairBatch
from kernelpot.kernels import normalize
from kernelpot.neighbors import NeighborList
from kernelpot.parallel import map_in_order, single_blas_thread
from kernelpot.regression import LocalVariance

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BATCH = 128

# Cotangents of local energy and variance from their values; may also change energies.
Blend = Callable[[slice, FloatArray, FloatArray], tuple[FloatArray, FloatArray, FloatArray]]


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
    """

    terms: Sequence[KernelTerm]
    weights: Mapping[tuple[int, int], FloatArray]
    whitening: Mapping[tuple[int, int], FloatArray]
    variances: Mapping[int, LocalVariance]
    _maps: dict[tuple[int, int], FloatArray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Compile the exact polynomial maps where they cost less than the kernel."""
        for (z, t), weights in self.weights.items():
            term = self.terms[t]
            points = term.sparse[z]
            n_features = points.shape[1]
            delta2 = term.kernel.diagonal()
            if term.kernel.zeta == 2 and n_features <= 2 * len(points):
                # sum_s alpha_s (p.q_s)^2 = p^T B p
                self._maps[z, t] = delta2 * (points.T * weights) @ points
            elif term.kernel.zeta == 1:
                self._maps[z, t] = delta2 * (weights @ points)

    def evaluate(
        self,
        z_index: IntArray,
        pairs: NeighborList,
        displacements: FloatArray,
        *,
        gradient: bool = True,
        variance: bool = False,
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
        gradient, variance : bool
            What to compute besides the energies.
        blend : callable, optional
            ``blend(atoms, energies, variances) -> energies, d/d energy, d/d variance``
            of the energy whose gradient is wanted; `atoms` is a slice.
        n_threads : int
            Threads; the result does not depend on it.

        Returns
        -------
        LocalEvaluation
        """
        n_atoms = len(z_index)
        variance = variance or blend is not None
        energies = np.empty(n_atoms)
        variances = np.empty(n_atoms) if variance else None
        novelties = np.empty(n_atoms) if variance else None
        pair_gradient = np.zeros((pairs.n_pairs, 3)) if gradient else None
        batches = [
            term.soap.pairs(pairs.first, pairs.neighbors, displacements, z_index)
            for term in self.terms
        ]

        def work(start: int) -> None:
            stop = min(start + BATCH, n_atoms)
            self._evaluate_batch(
                batches, z_index, start, stop, blend, energies, variances, novelties,
                pair_gradient,
            )  # fmt: skip

        starts = range(0, n_atoms, BATCH)
        with single_blas_thread():
            for _ in map_in_order(work, starts, min(n_threads, len(starts))):
                pass
        return LocalEvaluation(energies, variances, novelties, pair_gradient)

    def _evaluate_batch(
        self,
        batches: Sequence[PairBatch],
        z_index: IntArray,
        start: int,
        stop: int,
        blend: Blend | None,
        energies: FloatArray,
        variances: FloatArray | None,
        novelties: FloatArray | None,
        pair_gradient: FloatArray | None,
    ) -> None:
        z_batch = z_index[start:stop]
        members = {int(z): np.flatnonzero(z_batch == z) for z in np.unique(z_batch)}
        expansions, units, norms = [], [], []
        for term, batch in zip(self.terms, batches, strict=True):
            coefficients = term.soap.expansion(batch, start, stop)
            unit, norm = normalize(term.soap.features(coefficients))
            expansions.append(coefficients)
            units.append(unit)
            norms.append(norm)

        mean = np.zeros(stop - start)
        # cotangent of the unit features and its part along them, from the mean
        slopes: dict[tuple[int, int], tuple[FloatArray, FloatArray]] = {}
        cosines: dict[tuple[int, int], FloatArray] = {}
        spread = np.empty(stop - start) if variances is not None else None
        phi_slopes: dict[int, FloatArray] = {}
        for z, rows in members.items():
            whole = len(rows) == stop - start
            for t, term in enumerate(self.terms):
                if (z, t) not in self.weights:
                    continue
                unit = units[t] if whole else units[t][rows]
                if variances is not None or (z, t) not in self._maps:
                    cosines[z, t] = term.kernel.cosine(unit, term.sparse[z])
                value, slope, along = self._mean(z, t, unit, cosines.get((z, t)))
                mean[rows] += value
                slopes[z, t] = slope, along
            if variances is not None:
                assert novelties is not None
                assert spread is not None
                found = [t for t in range(len(self.terms)) if (z, t) in self.weights]
                phi = np.concatenate(
                    [self.terms[t].kernel.values(cosines[z, t]) @ self.whitening[z, t]
                     for t in found], axis=1,
                )  # fmt: skip
                v, novelty = self.variances[z](phi)
                variances[start + rows] = v
                novelties[start + rows] = novelty
                spread[rows] = v
                if blend is not None and pair_gradient is not None:
                    phi_slopes[z] = self.variances[z].gradient(phi)

        weight_mean = weight_variance = None
        if blend is not None:
            assert spread is not None
            mean, weight_mean, weight_variance = blend(slice(start, stop), mean, spread)
        energies[start:stop] = mean
        if pair_gradient is None:
            return

        for t, term in enumerate(self.terms):
            cotangent = np.zeros_like(units[t])
            for z, rows in members.items():
                if (z, t) not in slopes:
                    continue
                slope, along = slopes[z, t]
                if weight_mean is not None and weight_variance is not None:
                    slope = slope * weight_mean[rows, None]
                    along = along * weight_mean[rows]
                    if np.any(weight_variance[rows]):
                        extra, extra_along = self._variance_cotangent(
                            z, t, cosines[z, t], phi_slopes[z], weight_variance[rows]
                        )
                        slope += extra
                        along += extra_along
                slope -= along[:, None] * units[t][rows]
                cotangent[rows] = slope / norms[t][rows, None]
            term.soap.pair_gradients(
                batches[t], start, stop, expansions[t], cotangent, pair_gradient
            )

    def _mean(
        self, z: int, t: int, unit: FloatArray, cosine: FloatArray | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean of one term, its derivative by unit features and its part along them."""
        term = self.terms[t]
        compiled = self._maps.get((z, t))
        if compiled is None:
            assert cosine is not None
            value, slope, along = term.kernel.mean_and_slopes(cosine, self.weights[z, t])
            return value, slope @ term.sparse[z], along
        if compiled.ndim == 1:
            value = unit @ compiled
            return value, np.tile(compiled, (len(unit), 1)), value.copy()
        slope = unit @ compiled
        value = np.einsum("ef,ef->e", slope, unit)
        slope *= 2.0
        return value, slope, 2.0 * value

    def _variance_cotangent(
        self, z: int, t: int, cosine: FloatArray, phi_slope: FloatArray, weight: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        start = 0
        for s in range(t):
            start += self.whitening[z, s].shape[1] if (z, s) in self.whitening else 0
        T = self.whitening[z, t]
        part = phi_slope[:, start : start + T.shape[1]] * weight[:, None]
        kernel_slope = part @ T.T
        along = self.terms[t].kernel.weigh_slopes(cosine, kernel_slope)
        return kernel_slope @ self.terms[t].sparse[z], along


def pair_forces(pairs: NeighborList, gradient: FloatArray) -> FloatArray:
    """Forces from the derivative of the energy by displacements.

    Parameters
    ----------
    pairs : NeighborList
    gradient : ndarray of shape (n_pairs, 3)
        [eV/Å].

    Returns
    -------
    ndarray of shape (n_atoms, 3)
        [eV/Å].
    """
    n_atoms = len(pairs.first) - 1
    forces = np.empty((n_atoms, 3))
    centers = pairs.centers
    for c in range(3):
        forces[:, c] = np.bincount(centers, gradient[:, c], n_atoms)
        forces[:, c] -= np.bincount(pairs.neighbors, gradient[:, c], n_atoms)
    return forces
