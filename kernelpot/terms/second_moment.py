"""Leading eigenvectors of sums of squares of streamed rows, of many columns too."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.linalg

from kernelpot.common.types import BoolArray, FloatArray

# Up to so many columns the matrix is formed; of more a sketch of it, of so many more vectors
# than eigenvectors are wanted.
DENSE_COLUMNS = 1000
OVERSAMPLING = 50


class SecondMoment(Protocol):
    """A sum of ``X.T @ X`` over batches of rows X, in memory that these do not make grow."""

    @property
    def trace(self) -> float:
        """Sum of all squares."""

    @property
    def used(self) -> BoolArray:
        """Columns in which some row was not zero, shape (n_columns,)."""

    def add(self, rows: FloatArray) -> None:
        """Add rows, shape (n, n_columns)."""

    def plus(self, factor: float, other: SecondMoment, other_factor: float) -> SecondMoment:
        """Weighted sum with another moment of the same kind."""

    def leading(self, n: int) -> tuple[FloatArray, FloatArray]:
        """Largest eigenvalues (n,), descending, and their vectors (n_columns, n)."""


def second_moment(n_columns: int, n_wanted: int) -> SecondMoment:
    """Nothing yet: the matrix itself, or a sketch where there are many columns.

    Parameters
    ----------
    n_columns : int
    n_wanted : int
        Eigenvectors that will be asked for, at most.

    Returns
    -------
    SecondMoment
    """
    if n_columns <= max(DENSE_COLUMNS, n_wanted + OVERSAMPLING):
        return DenseMoment(np.zeros((n_columns, n_columns)))
    rng = np.random.default_rng(0)
    test = np.linalg.qr(rng.standard_normal((n_columns, n_wanted + OVERSAMPLING)))[0]
    return SketchedMoment(test, np.zeros_like(test))


class DenseMoment:
    """The matrix itself.

    Parameters
    ----------
    matrix : ndarray of shape (n_columns, n_columns)
    """

    def __init__(self, matrix: FloatArray) -> None:
        self.matrix = matrix

    @property
    def trace(self) -> float:
        """Sum of all squares."""
        return float(np.trace(self.matrix))

    @property
    def used(self) -> BoolArray:
        """Columns that are not zero."""
        found: BoolArray = self.matrix.diagonal() > 0
        return found

    def add(self, rows: FloatArray) -> None:
        """Add rows."""
        self.matrix += rows.T @ rows

    def plus(self, factor: float, other: SecondMoment, other_factor: float) -> DenseMoment:
        """Weighted sum."""
        assert isinstance(other, DenseMoment)
        return DenseMoment(factor * self.matrix + other_factor * other.matrix)

    def leading(self, n: int) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues and vectors."""
        last = len(self.matrix)
        values, vectors = scipy.linalg.eigh(self.matrix, subset_by_index=(last - n, last - 1))
        return values[::-1], vectors[:, ::-1]


class SketchedMoment:
    r"""Its products with random vectors, from which Nyström's approximation is made [1]_.

    Parameters
    ----------
    test : ndarray of shape (n_columns, n_vectors)
        Orthonormal.
    sketch : ndarray of shape (n_columns, n_vectors)
        The matrix times these.
    trace : float
        Sum of all squares.

    References
    ----------
    .. [1] Tropp, Yurtsever, Udell, Cevher, Adv. Neural Inf. Process. Syst. 30 (2017),
       algorithm 3.
    """

    def __init__(self, test: FloatArray, sketch: FloatArray, trace: float = 0.0) -> None:
        self.test, self.sketch, self._trace = test, sketch, trace

    @property
    def trace(self) -> float:
        """Sum of all squares."""
        return self._trace

    @property
    def used(self) -> BoolArray:
        """Columns that are not zero."""
        found: BoolArray = np.any(self.sketch != 0.0, axis=1)
        return found

    def add(self, rows: FloatArray) -> None:
        """Add rows."""
        self.sketch += rows.T @ (rows @ self.test)
        self._trace += float(np.vdot(rows, rows))

    def plus(self, factor: float, other: SecondMoment, other_factor: float) -> SketchedMoment:
        """Weighted sum."""
        assert isinstance(other, SketchedMoment)
        return SketchedMoment(
            self.test,
            factor * self.sketch + other_factor * other.sketch,
            factor * self.trace + other_factor * other.trace,
        )

    def leading(self, n: int) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues and vectors of the approximation."""
        # a shift against the rounding of small eigenvalues
        shift = np.sqrt(len(self.test)) * np.finfo(float).eps * np.linalg.norm(self.sketch, 2)
        shifted = self.sketch + shift * self.test
        corner = self.test.T @ shifted
        half = scipy.linalg.cholesky(0.5 * (corner + corner.T))
        root = scipy.linalg.solve_triangular(half, shifted.T, trans="T").T
        vectors, singular, _ = scipy.linalg.svd(root, full_matrices=False)
        return np.maximum(singular**2 - shift, 0.0)[:n], vectors[:, :n]
