r"""Polynomials of normalized features: the dot-product kernel by its exact features.

With an integer exponent the dot-product kernel is a sum over the monomials of the features,

.. math:: (u \cdot u')^\zeta = \sum_m f_m(u) f_m(u'), \qquad
          f_m(u) = \sqrt{\zeta! / \textstyle\prod_a m_a!} \, \prod_a u_a^{m_a}

over all multi-indices m of degree :math:`\zeta` [1]_. Local energies are linear in them, with
independent weights of the prior variance :math:`\delta^2`: no sparse points, no covariance
between them, nothing to whiten. Of the monomials a regression takes those whose values vary
most; the others are prior.

References
----------
.. [1] Rasmussen, Williams, Gaussian Processes for Machine Learning (2006), section 4.2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import numpy as np

from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.data.system import System
from kernelpot.terms import _polynomial
from kernelpot.terms.base import FastMean, RowGradient, SeveralMeans
from kernelpot.terms.dot_product import DotProductKernel, LinearMean, normalize
from kernelpot.terms.several_means import LinearMeans, QuadraticMeans
from kernelpot.terms.similarity import SimilarityKernel

DEGREES = (1, 2, 3)
# Of so many leading features at most monomials of the third degree are considered.
CUBIC_FEATURES = 60


def factors(index: Array) -> FloatArray:
    """Square roots of the multinomial coefficients of monomials.

    Parameters
    ----------
    index : ndarray of shape (n, degree)
        Features that are multiplied, ascending along each row.

    Returns
    -------
    ndarray of shape (n,)
    """
    found = np.empty(len(index))
    _polynomial.factors(index, found)
    return found


def n_monomials(n_features: int, degree: int) -> int:
    """Number of monomials of a degree.

    Parameters
    ----------
    n_features, degree : int

    Returns
    -------
    int
    """
    if degree == 3:
        n_features = min(n_features, CUBIC_FEATURES)
    return math.comb(n_features + degree - 1, degree) if n_features else 0


def leading_monomials(scales: FloatArray, degree: int) -> tuple[IntArray, FloatArray]:
    """Monomials by their prior scale, the largest first.

    Parameters
    ----------
    scales : ndarray of shape (n_features,)
        Root mean square of each feature, descending; those that are zero have no monomials.
    degree : {1, 2, 3}

    Returns
    -------
    index : ndarray of shape (n, degree)
        Features that are multiplied, ascending along each row.
    scale : ndarray of shape (n,)
        The product of their scales, and of the factor of `factors`.
    """
    n = int(np.count_nonzero(scales))
    if degree == 1:
        index = np.arange(n)[:, None]
    elif degree == 2:
        index = np.stack(np.triu_indices(n), axis=1)
    else:
        some = combinations_with_replacement(range(min(n, CUBIC_FEATURES)), 3)
        index = np.array(list(some), dtype=np.int64).reshape(-1, 3)
    scale = factors(index) * scales[index].prod(axis=1)
    order = np.argsort(-scale, kind="stable")
    return index[order].astype(np.int64), scale[order]


@dataclass(frozen=True)
class MonomialGradient(RowGradient):
    """Derivative of monomials by features, as rows of the regression take it.

    Attributes
    ----------
    points : ndarray of shape (n_points, degree)
        Monomials.
    at : ndarray of shape (n, n_features)
        Embedded features of the environments.
    slope : ndarray of shape (n, 1)
        Slope of the kernel, divided by the length of features before they were embedded.
    """

    def add_pairs(
        self,
        system: System,
        pairs: IntArray,
        rows: IntArray,
        jacobian: FloatArray,
        force_rows: FloatArray,
        virial_rows: FloatArray,
    ) -> None:
        """Add what displacements of pairs contribute to rows of forces and virials.

        Parameters
        ----------
        system : System
        pairs : ndarray of shape (n,)
            Pairs whose displacement changes an environment, those of one center together.
        rows : ndarray of shape (n,)
            Which environment each changes.
        jacobian : ndarray of shape (n, 3, n_features)
            Derivatives of features by the displacement.
        force_rows, virial_rows
            As in `Descriptor.add_rows`.
        """
        centers = system.pairs.centers[pairs]
        _polynomial.accumulate(
            jacobian,
            rows,
            centers,
            system.pairs.neighbors[pairs],
            system.structure_of[centers],
            system.displacements[pairs],
            self.at,
            self.slope[:, 0],
            self.points,
            factors(self.points),
            force_rows,
            virial_rows,
        )


@dataclass(frozen=True)
class PolynomialKernel(SimilarityKernel):
    r"""Kernel :math:`\delta^2 (\hat x \cdot \hat x')^\zeta` by explicit monomials.

    A `kernelpot.terms.base.Kernel` that is `explicit`: its points are rows of indices, the
    features that are multiplied. Only the leading features have a place in monomials; what
    others there are count in the length of feature vectors, and in the prior.

    Parameters
    ----------
    degree : {1, 2, 3}
    delta : float
        Prior standard deviation of a local energy [eV].
    """

    degree: int
    delta: float

    # ---- features ------------------------------------------------------------------

    @property
    def explicit(self) -> bool:
        """Points are monomials."""
        return True

    @property
    def uncorrelated(self) -> bool:
        """Monomials are."""
        return True

    @cached_property
    def between(self) -> DotProductKernel:
        """The kernel that all monomials together are."""
        return DotProductKernel(self.degree, self.delta)

    def embed(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Unit vectors, and the norms that features had."""
        return normalize(x)

    def tangent(self, u: FloatArray, norm: FloatArray, by_x: FloatArray) -> FloatArray:
        """Derivatives of unit vectors from those of features, (n, c, f) to (c, n, f)."""
        return self.between.tangent(u, norm, by_x)

    def squares(self, u: FloatArray) -> FloatArray:
        """Ones."""
        return np.ones(len(u))

    def similarity(self, u: FloatArray, points: Array) -> FloatArray:
        """Monomials, shape (n, n_points)."""
        out = np.empty((len(u), len(points)))
        if len(points):  # those of a class without any have no degree
            _polynomial.values(u, points, factors(points), out)
        return out

    def own(self, similarity: FloatArray) -> FloatArray:
        """The degree times the monomials (Euler's theorem on homogeneous functions)."""
        return self.degree * similarity

    def contract(self, cotangent: FloatArray, u: FloatArray, points: Array) -> FloatArray:
        """Derivative of a weighted sum of monomials, but for the part along u."""
        out = np.zeros_like(u)
        if len(points):
            _polynomial.contract(cotangent, u, points, factors(points), out)
        return out

    def directional(self, by_u: FloatArray, u: FloatArray, points: Array) -> FloatArray:
        """Derivative of monomials; `by_u` has no part along `u`."""
        out = np.empty((len(u), len(points)))
        if len(points):
            _polynomial.directional(u, by_u, points, factors(points), out)
        return out

    def row_gradient(
        self,
        u: FloatArray,
        norm: FloatArray,
        weight: FloatArray | None,
        points: Array,
        similarity: FloatArray,
        values: FloatArray,
    ) -> MonomialGradient:
        """Derivative of the monomials by features; see `Kernel.row_gradient`."""
        slope = self.diagonal() / norm[:, None]
        if weight is not None:
            slope *= weight
        return MonomialGradient(points, u, slope, self.own(similarity), values)

    # ---- kernel --------------------------------------------------------------------

    def diagonal(self) -> float:
        """Prior variance of any local energy [eV^2]."""
        return float(self.delta) ** 2

    def largest_slope(self) -> float:
        """Of the kernel between environments."""
        return self.between.largest_slope()

    def values(self, similarity: FloatArray) -> FloatArray:
        """Covariance with the weights of monomials [eV^2], same shape."""
        return self.diagonal() * similarity

    def slopes(self, similarity: FloatArray) -> FloatArray:
        """Constant, same shape."""
        return np.full_like(similarity, self.diagonal())

    def curvatures(self, similarity: FloatArray) -> FloatArray:
        """Zeros, same shape."""
        return np.zeros_like(similarity)

    def gram(self, points: Array) -> FloatArray:
        """Prior covariance of the weights of distinct monomials."""
        return self.diagonal() * np.eye(len(points))

    def beside(self, tail: FloatArray) -> FastMean:
        """What a mean has beside its points: a quadratic form."""
        return LeadingQuadratic(tail)

    def completed(self, points: Array, weights: FloatArray, tail: FloatArray) -> FastMean:
        """The mean with what it has beside its points.

        Parameters
        ----------
        points : ndarray of shape (n_points, 2)
        weights : ndarray of shape (n_points,)
        tail : ndarray of shape (n, n)
        """
        mean = self.fast_mean(points, weights)
        assert isinstance(mean, LeadingQuadratic)
        return mean.plus(tail)

    def fast_mean(self, points: Array, weights: FloatArray) -> FastMean | None:
        """A polynomial, its coefficients collected by the features they belong to."""
        if not len(points):
            return None
        coefficients = self.diagonal() * factors(points) * weights
        n = int(points.max()) + 1
        if self.degree == 1:
            vector = np.zeros(n)
            vector[points[:, 0]] = coefficients
            return LeadingLinear(vector)
        if self.degree == 2:
            matrix = np.zeros((n, n))
            np.add.at(matrix, (points[:, 0], points[:, 1]), 0.5 * coefficients)
            return LeadingQuadratic(matrix + matrix.T)
        return Sum(points, coefficients)

    def several_means(
        self, points: Array, weights: FloatArray, max_bytes: float
    ) -> SeveralMeans | None:
        """Closed forms of degree 1 and 2; see `HasSeveralMeans`."""
        n = int(points.max()) + 1
        if self.degree > 2 or 4 * len(weights) * n**self.degree > max_bytes:
            return None
        means = [self.fast_mean(points, own) for own in weights]
        if self.degree == 1:
            vectors = [mean.vector for mean in means if isinstance(mean, LeadingLinear)]
            return LinearMeans(np.array(vectors).T)
        matrices = [mean.matrix for mean in means if isinstance(mean, LeadingQuadratic)]
        return QuadraticMeans.of(np.array(matrices))


@dataclass(frozen=True)
class LeadingLinear:
    """A mean ``b^T u`` of the leading features of u."""

    vector: FloatArray

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, derivative and its part along u; see `FastMean`."""
        n = len(self.vector)
        mean, leading, own = LinearMean(self.vector)(u[:, :n])
        by_u = np.zeros_like(u)
        by_u[:, :n] = leading
        return mean, by_u, own


@dataclass(frozen=True)
class LeadingQuadratic:
    """A mean ``u^T B u`` of the leading features of u, with symmetric B."""

    matrix: FloatArray

    def plus(self, other: FloatArray) -> LeadingQuadratic:
        """The sum with another form, of as many features or more."""
        total = other.copy()
        total[: len(self.matrix), : len(self.matrix)] += self.matrix
        return LeadingQuadratic(total)

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, derivative and its part along u; see `FastMean`."""
        n = len(self.matrix)
        leading = np.ascontiguousarray(u[:, :n])
        half = leading @ self.matrix
        mean = np.einsum("ef,ef->e", half, leading)
        by_u = np.zeros_like(u)
        np.multiply(half, 2.0, out=by_u[:, :n])
        return mean, by_u, 2.0 * mean


@dataclass(frozen=True)
class Sum:
    """A mean that is a sum over monomials."""

    points: Array
    coefficients: FloatArray

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, derivative and its part along u; see `FastMean`."""
        by_u = np.zeros_like(u)
        cotangent = np.broadcast_to(self.coefficients, (len(u), len(self.coefficients)))
        _polynomial.contract(cotangent, u, self.points, np.ones(len(self.points)), by_u)
        own = np.einsum("ef,ef->e", by_u, u)
        return own / self.points.shape[1], by_u, own
