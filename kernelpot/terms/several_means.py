r"""Means of several sets of weights at once: homogeneous polynomials of unit features.

What potentials drawn from a posterior deviate by from their mean. These are small, and sums of
large parts: weights of sparse points are large and cancel. Coefficients in an orthonormal basis
are of the size of the prior, :math:`\delta`, so that single precision does for derivatives: errors
are some 1e-6 of what a term contributes. Energies are in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import lapack, solve_triangular

from kernelpot.common.types import FloatArray, IntArray, SingleArray

# Coefficients that contribute less than this, in units of the prior, are left out.
NEGLIGIBLE = 3e-8
# Squares of what points add to the span of others, below which they add nothing.
DEPENDENT = 1e-14
# Points per feature, below which energies of quadratic forms are sums over points: forms have to
# come from memory.
FEW_POINTS = 2
# Features that are rotated together, components of them with one number of coefficients, and
# parts of a triangle that is multiplied as rectangles.
CHUNK, COMPONENTS, PARTS = 54, 14, 4


@dataclass(frozen=True)
class LinearMeans:
    """Means ``b_m^T u``.

    Attributes
    ----------
    vectors : ndarray of shape (n_leading, n_members)
        Of the leading features.
    """

    vectors: FloatArray

    degree = 1

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return self.vectors.nbytes

    def __call__(
        self, u: FloatArray, similarity: FloatArray | None, weight: FloatArray | None
    ) -> tuple[SingleArray, FloatArray]:
        """Derivatives by features, and energies; see `SeveralMeans`."""
        n = len(self.vectors)
        found = np.zeros((*u.shape, self.vectors.shape[1]), dtype=np.float32)
        found[:, :n] = self.vectors
        total = u.sum(axis=0) if weight is None else weight @ u
        return found, total[:n] @ self.vectors


@dataclass(frozen=True)
class QuadraticMeans:
    """Means ``u^T B_m u`` of leading features, with symmetric B.

    Attributes
    ----------
    matrices : ndarray of float32, shape (n_leading, n_leading, n_members)
        Twice B.
    forms : ndarray of shape (n_leading (n_leading + 1) / 2, n_members) or None
        Coefficients of products of features a <= b, for the energies.
    points : ndarray of shape (n_points, n_features), optional
    weights : ndarray of shape (n_members, n_points), optional
        Where `forms` is None: energies are sums over these.
    """

    matrices: SingleArray
    forms: FloatArray | None
    points: FloatArray | None = None
    weights: FloatArray | None = None

    degree = 2

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return self.matrices.nbytes + (0 if self.forms is None else self.forms.nbytes)

    @cached_property
    def _upper(self) -> IntArray:
        """Places of the elements a <= b of a matrix."""
        n = len(self.matrices)
        return np.flatnonzero(np.triu(np.ones((n, n), dtype=bool)))

    @classmethod
    def of_points(cls, points: FloatArray, weights: FloatArray) -> QuadraticMeans:
        """From the weights of points, prior variance included."""
        matrices = np.array([(points.T * own) @ points for own in weights])
        if len(points) >= FEW_POINTS * points.shape[1]:
            return cls.of(matrices)
        twice = np.ascontiguousarray(2.0 * matrices.transpose(1, 2, 0), dtype=np.float32)
        return cls(twice, None, points, weights)

    @classmethod
    def of(cls, matrices: FloatArray) -> QuadraticMeans:
        """From B, shape (n_members, n_leading, n_leading)."""
        row, column = np.triu_indices(matrices.shape[1])
        forms = matrices[:, row, column] * np.where(row == column, 1.0, 2.0)
        return cls(
            np.ascontiguousarray(2.0 * matrices.transpose(1, 2, 0), dtype=np.float32),
            np.ascontiguousarray(forms.T),
        )

    def __call__(
        self, u: FloatArray, similarity: FloatArray | None, weight: FloatArray | None
    ) -> tuple[SingleArray, FloatArray]:
        """Derivatives by features, and energies; see `SeveralMeans`."""
        n, _, n_members = self.matrices.shape
        leading = u[:, :n]
        if self.forms is not None:
            squares = leading.T @ (leading if weight is None else weight[:, None] * leading)
            energies = squares.ravel()[self._upper] @ self.forms
        else:
            assert self.points is not None
            assert self.weights is not None
            squares = np.square(u @ self.points.T)
            energies = self.weights @ (squares.sum(axis=0) if weight is None else weight @ squares)
        found = leading.astype(np.float32) @ self.matrices.reshape(n, n * n_members)
        found = found.reshape(len(u), n, n_members)
        if n == u.shape[1]:
            return found, energies
        padded = np.zeros((*u.shape, n_members), dtype=np.float32)
        padded[:, :n] = found
        return padded, energies


@dataclass(frozen=True)
class CubicMeans:
    r"""Means :math:`\sum_s w_{ms} (u \cdot x_s)^3`, without the sum over points for each of them.

    The squares :math:`(u \cdot x_s)^2` are combined to coordinates of :math:`u \otimes u` in an
    orthonormal basis of what points span, by a pivoted Cholesky factor [1]_; derivatives by
    features are taken along principal components of chunks of features. Both are ordered by
    size: a coordinate and a component whose product is negligible for the points need no
    coefficient.

    Attributes
    ----------
    points : ndarray of shape (n_points, n_features)
    weights : ndarray of shape (n_members, n_points)
    pivots : ndarray of shape (n,)
        Points that coordinates are made of.
    constant : ndarray of shape (n,)
        What is taken off their squares.
    inverse : list of ndarray
        Rows of the inverse Cholesky factor, some together, without the zeros at their end.
    common : ndarray of float32, shape (n_features, n_members)
        Derivatives of what is taken off.
    chunks : list of (components, blocks)
        Principal components of features, and coefficients: of some components each, shape
        (n_coordinates, n_components, n_members).

    References
    ----------
    .. [1] Harbrecht, Peters, Schneider, Appl. Numer. Math. 62, 428 (2012).
    """

    points: FloatArray
    weights: FloatArray
    pivots: IntArray
    constant: FloatArray
    inverse: list[FloatArray]
    common: SingleArray
    chunks: list[tuple[SingleArray, list[SingleArray]]]

    degree = 3

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return sum(block.nbytes for _, blocks in self.chunks for block in blocks)

    @classmethod
    def of(cls, points: FloatArray, weights: FloatArray) -> CubicMeans:
        """From the weights of points.

        Parameters
        ----------
        points : ndarray of shape (n_points, n_features)
            Unit vectors.
        weights : ndarray of shape (n_members, n_points)
            Prior variance included [eV].
        """
        n_points, n_features = points.shape
        factor, order, rank, _ = lapack.dpstrf(np.square(points @ points.T), tol=DEPENDENT, lower=1)
        pivots = np.asarray(order[:rank] - 1, dtype=np.int64)
        factor = np.tril(factor)[:, :rank]
        sizes = np.sqrt(np.square(factor).mean(axis=0))
        center = points.mean(axis=0)
        constant = np.square(points @ (center / np.linalg.norm(center)))
        sorted_points, sorted_weights = points[order - 1], 3.0 * weights[:, order - 1]
        lower = solve_triangular(factor[:rank], np.eye(rank), lower=True)
        ends = np.unique(np.ceil(rank * np.arange(1, PARTS + 1) / PARTS).astype(int))
        inverse = [
            np.ascontiguousarray(lower[start:stop, :stop].T)
            for start, stop in zip([0, *ends[:-1]], ends, strict=True)
        ]
        chunks = []
        n_chunks = -(-n_features // CHUNK)
        bounds = np.linspace(0, n_features, n_chunks + 1).astype(int)
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            _, scales, rows = np.linalg.svd(sorted_points[:, start:stop], full_matrices=False)
            scales /= np.sqrt(n_points)
            along = sorted_points[:, start:stop] @ rows.T
            blocks = []
            for first in range(0, len(scales), COMPONENTS):
                some = along[:, first : first + COMPONENTS]
                needed = np.flatnonzero(sizes * scales[first] > NEGLIGIBLE)
                if not len(needed):
                    break
                left = factor[:, : needed[-1] + 1]
                block = np.empty((left.shape[1], some.shape[1], len(weights)), dtype=np.float32)
                for m, own in enumerate(sorted_weights):
                    block[:, :, m] = left.T @ (own[:, None] * some)
                blocks.append(block)
            n_kept = sum(block.shape[1] for block in blocks)
            chunks.append((np.ascontiguousarray(rows[:n_kept].T, dtype=np.float32), blocks))
        return cls(
            points,
            weights,
            pivots,
            constant[pivots],
            inverse,
            ((3.0 * weights * constant) @ points).T.astype(np.float32),
            chunks,
        )

    def __call__(
        self, u: FloatArray, similarity: FloatArray | None, weight: FloatArray | None
    ) -> tuple[SingleArray, FloatArray]:
        """Derivatives by features, and energies; see `SeveralMeans`."""
        if similarity is None:
            similarity = u @ self.points.T
        cubes = np.square(similarity) if weight is None else weight[:, None] * np.square(similarity)
        energies = self.weights @ np.einsum("es,es->s", cubes, similarity)
        squares = np.square(similarity[:, self.pivots])
        squares -= self.constant
        n, n_members = len(u), self.common.shape[1]
        coordinates = np.empty(squares.shape, dtype=np.float32)
        start = 0
        for part in self.inverse:
            stop = start + part.shape[1]
            coordinates[:, start:stop] = squares[:, : len(part)] @ part
            start = stop
        found = np.empty((*u.shape, n_members), dtype=np.float32)
        room = np.empty((n, CHUNK * n_members), dtype=np.float32)
        start = 0
        for components, blocks in self.chunks:
            stop, filled = start + len(components), 0
            for block in blocks:
                end = filled + block.shape[1]
                np.matmul(
                    coordinates[:, : len(block)],
                    block.reshape(len(block), -1),
                    out=room[:, filled * n_members : end * n_members],
                )
                filled = end
            along = room[:, : filled * n_members].reshape(n, filled, n_members)
            np.matmul(components, along, out=found[:, start:stop])
            start = stop
        found += self.common
        return found, energies
