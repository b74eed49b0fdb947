r"""Sparse Gaussian-process regression on matrices: streamed QR, weights, variance.

Nothing here knows of atoms. With whitened features
:math:`\Phi = K_{nM} T`, :math:`T T^\top = K_{MM}^{-1}`, the prior covariance of the
weights is the identity and the posterior follows from one triangular factor

.. math:: R^\top R = I + \Phi^\top \Lambda^{-1} \Phi ,

which is never formed as a product: batches of noise-scaled rows are annihilated into
R by orthogonal transformations [1]_. Memory is that of R and one batch.

References
----------
.. [1] Foster et al., J. Mach. Learn. Res. 10, 857 (2009), the "V method" with QR.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import scipy.linalg

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.regression import _lapack

# Columns annihilated together, rows of a triangle merged and columns solved for at a time, for
# speed only.
_QR_BLOCK = 64
_MERGED_ROWS = 256
_SOLVED_COLUMNS = 256


class TriangularFactor:
    """The triangular factor of noise-scaled rows ``[Phi | y]``, grown in batches.

    Parameters
    ----------
    n_features : int
        Columns of Phi.
    prior : bool, default=True
        Start from the unit prior. Factors to be merged into another start from zero:
        the prior enters exactly once.

    Attributes
    ----------
    matrix : ndarray of shape (n_features + 1, n_features + 1)
        Upper triangle; the last column belongs to the targets.
    n_rows : int
        Rows seen so far.
    """

    def __init__(self, n_features: int, *, prior: bool = True) -> None:
        self.matrix = np.zeros((n_features + 1, n_features + 1), order="F")
        if prior:
            self.matrix[np.arange(n_features), np.arange(n_features)] = 1.0
        self.n_rows = 0

    @property
    def n_features(self) -> int:
        """Columns of Phi."""
        return len(self.matrix) - 1

    def copy(self) -> TriangularFactor:
        """Return another factor of the same rows, to be updated on its own."""
        other = TriangularFactor(0)
        other.matrix, other.n_rows = self.matrix.copy(order="F"), self.n_rows
        return other

    @property
    def R(self) -> FloatArray:
        """Upper triangular, shape (n_features, n_features)."""
        return self.matrix[:-1, :-1]

    @property
    def residual(self) -> float:
        """``y^T (y - Phi w)`` of the noise-scaled rows."""
        return float(self.matrix[-1, -1] ** 2)

    def update(self, rows: FloatArray, targets: FloatArray) -> None:
        """Annihilate rows into the factor.

        Parameters
        ----------
        rows : ndarray of shape (n, n_features)
            Whitened features divided by the noise of each row.
        targets : ndarray of shape (n,)
            Targets divided by the noise of each row.
        """
        if len(rows):
            stacked = np.empty((len(rows), self.n_features + 1), order="F")
            stacked[:, :-1] = rows
            stacked[:, -1] = targets
            _lapack.dtpqrt(self.matrix, stacked, min(_QR_BLOCK, len(self.matrix)))
            self.n_rows += len(rows)

    def merge(self, other: TriangularFactor, scale: FloatArray | None = None) -> None:
        """Add the rows behind another factor, which must have started from zero.

        Parameters
        ----------
        other : TriangularFactor
        scale : ndarray of shape (n_features + 1,), optional
            Multiplies its columns first.
        """
        stacked = np.array(other.matrix, order="F")
        if scale is not None:
            stacked *= scale
        # Rows start..stop of a triangle touch columns from start on only.
        for start in range(0, len(stacked), _MERGED_ROWS):
            stop = start + _MERGED_ROWS
            part = self.matrix[start:, start:]
            _lapack.dtpqrt(part, stacked[start:stop, start:], min(_QR_BLOCK, len(part)))
        self.n_rows += other.n_rows

    def solve(self) -> FloatArray:
        """Posterior mean of the whitened weights, shape (n_features,)."""
        return scipy.linalg.solve_triangular(self.R, self.matrix[:-1, -1])

    def open_variance(self, phi: FloatArray) -> FloatArray:
        r"""Variance the data leave open, :math:`|R^{-\top} \phi|^2`.

        Parameters
        ----------
        phi : ndarray of shape (n, n_columns)
            Whitened features of linear functionals; columns left out at the end are
            zero.

        Returns
        -------
        ndarray of shape (n,)
        """
        solved = self.solve_transposed(phi)
        return np.einsum("mn,mn->n", solved, solved)

    def solve_transposed(self, phi: FloatArray) -> FloatArray:
        r"""Columns :math:`R^{-\top} \phi`.

        Parameters
        ----------
        phi : ndarray of shape (n, n_columns)
            As in `open_variance`.

        Returns
        -------
        ndarray of shape (n_features, n)
        """
        # Forward substitution never looks ahead: with the targets' column of `matrix`
        # as well, the leading unknowns are the same and nothing is copied.
        padded = np.zeros((len(phi), len(self.matrix)))
        padded[:, : phi.shape[1]] = phi
        solved = scipy.linalg.blas.dtrsm(1.0, self.matrix, padded.T, trans_a=1, overwrite_b=1)
        return solved[:-1]

    def deviations(self, n: int, rng: np.random.Generator) -> FloatArray:
        r"""Draw :math:`R^{-1} z`: posterior samples of the weights minus their mean.

        Parameters
        ----------
        n : int
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of shape (n, n_features)
        """
        z = rng.standard_normal((n, self.n_features))
        return scipy.linalg.solve_triangular(self.R, z.T).T

    def posterior_factor(self, columns: IntArray) -> FloatArray:
        """S with ``S.T @ S`` the posterior covariance of some weights.

        Parameters
        ----------
        columns : ndarray of int
            The weights wanted (those of one species), ascending.

        Returns
        -------
        ndarray of shape (n, n_columns)
            Rows of :math:`R^{-1}`, transposed, without leading zeros; ``|S @ phi|^2`` is the
            variance the data leave open.
        """
        if not len(columns):
            return np.zeros((0, 0))
        first = int(columns[0])
        found = np.zeros((self.n_features - first, len(columns)), order="F")
        found[columns - first, np.arange(len(columns))] = 1.0
        for start in range(0, len(columns), _SOLVED_COLUMNS):
            # forward substitution: nothing above the one
            some, row = slice(start, start + _SOLVED_COLUMNS), int(columns[start])
            found[row - first :, some] = scipy.linalg.blas.dtrsm(
                1.0, self.R[row:, row:], found[row - first :, some], trans_a=1
            )
        return found


class AbsentFactor(TriangularFactor):
    """In place of a factor that was left out of a model for prediction alone.

    Parameters
    ----------
    n_rows : int
        Rows it had seen.
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows

    @property
    def matrix(self) -> FloatArray:  # type: ignore[override]
        """What there is not.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            "this potential is slim: it predicts energies, forces, stress and their calibrated "
            "standard deviations, but does not hold the factor of its training, which the "
            "posterior's own numbers, samples, suspects and updates need. Load the file that was "
            "saved without slim (a pickled calculator is always slim)"
        )


class GroupedFactor:
    """Rows ``[Phi | y]`` at unit noise, compressed group by group.

    Groups share a noise parameter. Keeping them apart costs one triangle each, and lets
    noise and column scales be chosen, or chosen anew, without the data. A group of
    fewer rows than columns is kept as it came.

    Parameters
    ----------
    n_features : int
        Columns of Phi.

    Attributes
    ----------
    triangles : dict of group to TriangularFactor
        Groups of many rows.
    rows : dict of group to ndarray of shape (n, n_features + 1)
        Groups of few.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.triangles: dict[Hashable, TriangularFactor] = {}
        self.rows: dict[Hashable, FloatArray] = {}

    @property
    def groups(self) -> list[Hashable]:
        """Groups that have rows, sorted."""
        return sorted([*self.triangles, *self.rows])  # type: ignore[type-var]

    @property
    def counts(self) -> dict[Hashable, int]:
        """Rows of each group."""
        return {
            group: self.triangles[group].n_rows
            if group in self.triangles
            else len(self.rows[group])
            for group in self.groups
        }

    @property
    def n_rows(self) -> int:
        """Rows of all groups."""
        return sum(self.counts.values())

    def update(self, group: Hashable, rows: FloatArray, targets: FloatArray) -> None:
        """Add rows of one group.

        Parameters
        ----------
        group : hashable
        rows : ndarray of shape (n, n_features)
            Whitened features in units of the noise parameter.
        targets : ndarray of shape (n,)
            In the same units.
        """
        self._add(group, np.column_stack([rows, targets]))

    def merge(self, other: GroupedFactor) -> None:
        """Add the rows behind another grouped factor."""
        for group, triangle in other.triangles.items():
            self._triangle(group).merge(triangle)
        for group, rows in other.rows.items():
            self._add(group, rows)

    def _add(self, group: Hashable, stacked: FloatArray) -> None:
        if group not in self.triangles:
            if group in self.rows:
                stacked = np.concatenate([self.rows.pop(group), stacked])
            if len(stacked) <= self.n_features:
                self.rows[group] = stacked
                return
        self._triangle(group).update(stacked[:, :-1], stacked[:, -1])

    def _triangle(self, group: Hashable) -> TriangularFactor:
        """Triangle of a group, made from its rows where it had few."""
        if group not in self.triangles:
            triangle = TriangularFactor(self.n_features, prior=False)
            if group in self.rows:
                few = self.rows.pop(group)
                triangle.update(few[:, :-1], few[:, -1])
            self.triangles[group] = triangle
        return self.triangles[group]

    def posterior(
        self, sigma: Callable[[Any], float], scale: FloatArray | None = None
    ) -> TriangularFactor:
        """Combine the groups with the unit prior.

        Parameters
        ----------
        sigma : callable
            Noise parameter of a group.
        scale : ndarray of shape (n_features,), optional
            Multiplies the columns of Phi (prior standard deviations of the weights).

        Returns
        -------
        TriangularFactor
            R with ``R.T @ R = I + sum_g D Phi_g^T Phi_g D / sigma_g^2``.
        """
        result = TriangularFactor(self.n_features)
        self.add_to(result, sigma, scale)
        return result

    def add_to(
        self,
        factor: TriangularFactor,
        sigma: Callable[[Any], float],
        scale: FloatArray | None = None,
    ) -> None:
        """Annihilate the rows of all groups into a factor, in place.

        Parameters
        ----------
        factor : TriangularFactor
            The prior, or what earlier data made of it.
        sigma, scale
            As in `posterior`.
        """
        columns = np.ones(self.n_features + 1)
        if scale is not None:
            columns[:-1] = scale
        for group in self.groups:
            weight = columns / sigma(group)
            if group in self.triangles:
                factor.merge(self.triangles[group], weight)
            else:
                scaled = self.rows[group] * weight
                factor.update(scaled[:, :-1], scaled[:, -1])
