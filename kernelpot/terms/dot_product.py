"""The dot-product kernel of GAP on normalized features, with its derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.terms import _dot_product
from kernelpot.terms.base import FastMean, SeveralMeans
from kernelpot.terms.several_means import CubicMeans, LinearMeans, QuadraticMeans
from kernelpot.terms.similarity import SimilarityKernel


def normalize(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return unit feature vectors and the norms they had.

    Parameters
    ----------
    features : ndarray of shape (n_env, n_features)
        Power spectra.

    Returns
    -------
    unit : ndarray of shape (n_env, n_features)
    norm : ndarray of shape (n_env,)
    """
    features = np.ascontiguousarray(features, dtype=float)
    unit, norm = np.empty_like(features), np.empty(len(features))
    _dot_product.unit_vectors(features, unit, norm)
    return unit, norm


@dataclass(frozen=True)
class DotProductKernel(SimilarityKernel):
    r"""Kernel :math:`\delta^2 (\hat p \cdot \hat q)^\zeta` [1]_.

    A `kernelpot.terms.base.Kernel`: features are embedded as unit vectors, their dot
    product is the similarity.

    Parameters
    ----------
    zeta : float
        Exponent, positive. Integers give a positive definite kernel.
    delta : float
        Prior standard deviation of a local energy [eV].

    References
    ----------
    .. [1] Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013), eq. (36).
    """

    zeta: float
    delta: float

    @property
    def _args(self) -> tuple[float, int, float]:
        integer = int(self.zeta) if float(self.zeta).is_integer() else -1
        return float(self.zeta), integer, float(self.delta) ** 2

    # ---- features ------------------------------------------------------------------

    def embed(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Unit vectors, and the norms that features had."""
        return normalize(x)

    def tangent(self, u: FloatArray, norm: FloatArray, by_x: FloatArray) -> FloatArray:
        """Derivatives of unit vectors from those of features, (n, c, f) to (c, n, f)."""
        by_x -= np.einsum("ecf,ef->ec", by_x, u)[:, :, None] * u[:, None]
        by_x /= norm[:, None, None]
        return np.ascontiguousarray(by_x.transpose(1, 0, 2))

    def squares(self, u: FloatArray) -> FloatArray:
        """Ones."""
        return np.ones(len(u))

    def similarity(self, u: FloatArray, points: FloatArray) -> FloatArray:
        """Dot products, shape (n, n_points); not negative for a non-integer zeta."""
        cosine = u @ points.T
        if self._args[1] < 0:
            np.maximum(cosine, 0.0, out=cosine)
        return cosine

    def own(self, similarity: FloatArray) -> FloatArray:
        """The similarity itself: normalization removes the part along the features."""
        return similarity

    def directional(self, by_u: FloatArray, u: FloatArray, points: FloatArray) -> FloatArray:
        """Derivative of the dot product; `by_u` has no part along `u`."""
        return by_u @ points.T

    # ---- kernel --------------------------------------------------------------------

    def diagonal(self) -> float:
        """Prior variance of any local energy [eV^2]."""
        return float(self.delta) ** 2

    def largest_slope(self) -> float:
        """Slope at a dot product of one."""
        return self.diagonal() * self.zeta

    def values(self, similarity: FloatArray) -> FloatArray:
        """Kernel from dot products, same shape."""
        out = np.empty_like(similarity)
        _dot_product.kernel_values(similarity, *self._args, out)
        return out

    def slopes(self, similarity: FloatArray) -> FloatArray:
        """Derivative of the kernel with respect to the dot product, same shape."""
        out = np.empty_like(similarity)
        _dot_product.kernel_slopes(similarity, *self._args, out)
        return out

    def curvatures(self, similarity: FloatArray) -> FloatArray:
        """Second derivative of the kernel with respect to the dot product, same shape."""
        zeta = self.zeta
        if zeta == 1:
            return np.zeros_like(similarity)
        return zeta * (zeta - 1.0) * self.diagonal() * similarity ** (zeta - 2)

    def gram(self, points: FloatArray) -> FloatArray:
        """Covariance of unit vectors with each other, exactly symmetric."""
        cosine = self.similarity(points, points)
        np.fill_diagonal(cosine, 1.0)  # unit vectors: take the rounding off
        return self.values(0.5 * (cosine + cosine.T))

    def fill(self, similarity: FloatArray, columns: IntArray, out: FloatArray) -> None:
        """Write the kernel of each sparse point into its column of `out`."""
        _dot_product.fill_kernel(similarity, *self._args, columns, out)

    def weigh_slopes(self, similarity: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Turn a cotangent of the kernel into one of the cosine, in place.

        Returns
        -------
        ndarray of shape (n_env,)
            The component along the center's own features, which normalization removes.
        """
        own = np.empty(len(similarity))
        _dot_product.weigh_slopes(similarity, *self._args, cotangent, own)
        return own

    def mean_and_slopes(
        self, similarity: FloatArray, weights: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean ``k @ weights`` with its cotangent of the cosine.

        Returns
        -------
        mean : ndarray of shape (n_env,)
        slopes : ndarray of shape (n_env, n_sparse)
        own : ndarray of shape (n_env,)
            As from `weigh_slopes`.
        """
        mean = np.empty(len(similarity))
        own = np.empty(len(similarity))
        slopes = np.empty_like(similarity)
        _dot_product.mean_and_slopes(similarity, *self._args, weights, mean, slopes, own)
        return mean, slopes, own

    # ---- closed forms --------------------------------------------------------------

    def fast_mean(self, points: FloatArray, weights: FloatArray) -> FastMean | None:
        r"""Exact polynomial of the unit features where that costs less than the kernel.

        For zeta = 2 :math:`\sum_s \alpha_s (p \cdot q_s)^2 = p^\top B p`.
        """
        if self.zeta == 2 and points.shape[1] <= 2 * len(points):
            return QuadraticMean(self.diagonal() * (points.T * weights) @ points)
        if self.zeta == 1:
            return LinearMean(self.diagonal() * (weights @ points))
        return None

    def several_means(
        self, points: FloatArray, weights: FloatArray, max_bytes: float
    ) -> SeveralMeans | None:
        """Polynomials of degree zeta = 1, 2 or 3 where that costs less; see `HasSeveralMeans`."""
        n, (n_points, n_features) = len(weights), points.shape
        weights = self.diagonal() * weights
        if self.zeta == 1:
            return LinearMeans((weights @ points).T)
        if self.zeta == 2 and n_features <= 2 * n_points:
            if 8 * n * n_features**2 > max_bytes:
                return None
            return QuadraticMeans.of_points(points, weights)
        # coordinates cost as many products as there are points; at most half of all coefficients
        # are found to be needed
        if self.zeta == 3 and n_points < n * n_features:
            if 4 * n * n_points * n_features > max_bytes:
                return None
            return CubicMeans.of(points, weights)
        return None

    def energy_prior(self, u: FloatArray) -> float | None:
        r""":math:`\delta^2 |U^\top U|_F^2` for zeta = 2 and more environments than features."""
        if self.zeta == 2 and len(u) > u.shape[1]:
            return self.diagonal() * float(np.square(u.T @ u).sum())
        return None

    def derivative_prior(self, u: FloatArray, tangents: FloatArray) -> FloatArray | None:
        r""":math:`\delta^2 |\partial_x U^\top U|_F^2`, where `energy_prior` has one."""
        if not (self.zeta == 2 and len(u) > u.shape[1]):
            return None
        total = np.zeros(len(tangents))
        for k, g in enumerate(tangents):
            moved = u.T @ g
            total[k] = self.diagonal() * np.square(moved + moved.T).sum()
        return total


@dataclass(frozen=True)
class QuadraticMean:
    """A mean ``u^T B u`` with symmetric B."""

    matrix: FloatArray

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, derivative and its part along u; see `FastMean`."""
        by_u = u @ self.matrix
        mean = np.einsum("ef,ef->e", by_u, u)
        by_u *= 2.0
        return mean, by_u, 2.0 * mean


@dataclass(frozen=True)
class LinearMean:
    """A mean ``b^T u``."""

    vector: FloatArray

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, derivative and its part along u; see `FastMean`."""
        mean = u @ self.vector
        return mean, np.tile(self.vector, (len(u), 1)), mean.copy()
