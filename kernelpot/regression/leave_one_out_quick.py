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

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, Group, SingleArray
from kernelpot.regression.factors import GroupedFactor, TriangularFactor
from kernelpot.regression.leave_one_out import LeftOut, chunks, leave_chunk
from kernelpot.regression.rows import StructureRows


@dataclass(frozen=True)
class GramFactor:
    """The products ``[Phi | y]^T [Phi | y]`` of each group: a fast, rougher `GroupedFactor`.

    A posterior by Cholesky takes a tenth of the time of merging triangles. Products square
    the condition number, so the smallest directions keep half of the digits: enough to
    compare noise parameters, not to predict with.

    Attributes
    ----------
    exact : GroupedFactor
        What they were made from.
    products : dict of group to ndarray of shape (n_features + 1, n_features + 1)
    """

    exact: GroupedFactor
    products: dict[Hashable, FloatArray]

    @classmethod
    def of(cls, grouped: GroupedFactor) -> GramFactor:
        """Multiply out the rows of each group."""
        products = {}
        for group in grouped.groups:
            if group in grouped.triangles:
                rows = np.triu(grouped.triangles[group].matrix)
            else:
                rows = grouped.rows[group]
            products[group] = rows.T @ rows
        return cls(grouped, products)

    def posterior(
        self, sigma: Callable[[Any], float], scale: FloatArray | None = None
    ) -> TriangularFactor:
        """Combine the groups with the unit prior, as `GroupedFactor.posterior`.

        Exactly so where the products are too ill-conditioned.
        """
        n = self.exact.n_features
        total = np.zeros((n + 1, n + 1))
        for group, product in self.products.items():
            total += product / sigma(group) ** 2
        if scale is not None:
            total[:-1] *= scale[:, None]
            total[:, :-1] *= scale
        right, squares = total[:-1, -1], total[-1, -1]
        total[np.arange(n), np.arange(n)] += 1.0
        result = TriangularFactor(n)
        try:
            result.matrix[:-1, :-1] = scipy.linalg.cholesky(total[:-1, :-1], check_finite=False)
        except np.linalg.LinAlgError:
            return self.exact.posterior(sigma, scale)
        solved = scipy.linalg.solve_triangular(result.R, right, trans="T", check_finite=False)
        result.matrix[:-1, -1] = solved
        result.matrix[-1, -1] = np.sqrt(max(squares - solved @ solved, 0.0))
        result.n_rows = self.exact.n_rows
        return result


# Largest first correction by the refinement, as a share of what it corrects, in norm. Every
# step leaves about that share of the error.
LARGEST_CORRECTION = 0.02
# Corrections so small end the refinement: what is left is smaller by the same factor again.
CONVERGED = 1e-6
MAX_STEPS = 5


class QuickLeaveOneOut:
    """Rows of structures, ready to be left out again and again.

    Parameters
    ----------
    structures : sequence of StructureRows
        Structures that every factor holds.
    n_threads : int
        The result does not depend on it.
    """

    def __init__(self, structures: Sequence[StructureRows], *, n_threads: int = 1) -> None:
        self._chunks = list(chunks(structures))
        self._phi: list[SingleArray] = [
            np.concatenate([rows.phi for rows in chunk], dtype=np.float32, casting="same_kind")
            for chunk in self._chunks
        ]
        self._n_threads = n_threads

    def __call__(
        self, factor: TriangularFactor, sigma: Callable[[Group], float], scale: FloatArray
    ) -> list[LeftOut]:
        """Residuals of each structure under fits without it.

        Parameters
        ----------
        factor : TriangularFactor
            Posterior of all data at these `sigma` and `scale`.
        sigma : callable
            Noise parameter of a group.
        scale : ndarray of shape (n_columns,)
            Multiplies the columns.

        Returns
        -------
        list of LeftOut
            In order, without variances.
        """
        with single_blas_thread():
            weights = scale * factor.solve()
            W = _single_inverse(factor, scale)

            def begin(k: int) -> list[_System | None]:
                Z = scipy.linalg.blas.strmm(1.0, W, self._phi[k].T, trans_a=1).T
                found = []
                start = 0
                for rows in self._chunks[k]:
                    own = Z[start : start + len(rows.y)]
                    start += len(own)
                    found.append(_System.of(rows, own, weights, sigma))
                return found

            structures = [rows for chunk in self._chunks for rows in chunk]
            parts = map_in_order(begin, range(len(self._chunks)), self._n_threads)
            systems = [system for part in parts for system in part]
            R = np.asfortranarray(factor.R)  # a copy: LAPACK would make one for each product
            for _ in range(MAX_STEPS):
                left = self._refine(systems, R, scale)
                if left < CONVERGED:
                    break

            def end(k: int) -> LeftOut:
                system = systems[k]
                if system is None or not system.sound:
                    return leave_chunk([structures[k]], factor, sigma, scale)[0]
                unit = system.sigmas * structures[k].unit
                return LeftOut(structures[k], system.x * unit, unit, None, True)

            return list(map_in_order(end, range(len(systems)), self._n_threads))

    def _refine(self, systems: Sequence[_System | None], R: FloatArray, scale: FloatArray) -> float:
        """Improve all solutions; return the largest correction as a share of its solution."""
        sound = [system for system in systems if system is not None and system.sound]
        # R^-1 R^-T A^T x of all structures at once
        back = np.zeros((len(R), len(sound)), order="F")

        def see(k: int) -> None:
            back[:, k] = scale * sound[k].seen

        for _ in map_in_order(see, range(len(sound)), self._n_threads):
            pass
        for trans in ("T", "N"):
            back = scipy.linalg.solve_triangular(
                R, back, trans=trans, overwrite_b=True, check_finite=False
            )
        back *= scale[:, None]

        def improve(k: int) -> float:
            return sound[k].improve(back[:, k])

        shares = list(map_in_order(improve, range(len(sound)), self._n_threads))
        return max(shares, default=0.0)


def _single_inverse(factor: TriangularFactor, scale: FloatArray) -> SingleArray:
    """Upper triangular, with scaled rows."""
    inverse, info = scipy.linalg.lapack.dtrtri(factor.R)
    if info != 0:
        raise np.linalg.LinAlgError(f"inverse of R failed (LAPACK dtrtri, info={info})")
    inverse *= scale[:, None]
    return np.asfortranarray(inverse, dtype=np.float32)


@dataclass
class _System:
    """The equations ``(I - H) x = e`` of one structure.

    Attributes
    ----------
    rows : StructureRows
    sigmas, e : ndarray of shape (n,)
        Noise of each row, and residual of the fit in units of it.
    factored : tuple
        Cholesky factor of I - H, roughly.
    x : ndarray of shape (n,)
        Solution, roughly at first.
    sound : bool
        Whether corrections were small so far.
    """

    rows: StructureRows
    sigmas: FloatArray
    e: FloatArray
    factored: Any
    x: FloatArray
    sound: bool = True

    @classmethod
    def of(
        cls,
        rows: StructureRows,
        Z: SingleArray,
        weights: FloatArray,
        sigma: Callable[[Group], float],
    ) -> _System | None:
        """Solve; None where it is too nearly singular."""
        sigmas = rows.noise(sigma)
        left = (Z @ Z.T).astype(np.float64)
        left /= -np.outer(sigmas, sigmas)
        left[np.diag_indices_from(left)] += 1.0
        try:
            factored = scipy.linalg.cho_factor(
                left, lower=True, overwrite_a=True, check_finite=False
            )
        except np.linalg.LinAlgError:
            return None
        e = (rows.y - rows.phi @ weights) / sigmas
        return cls(
            rows, sigmas, e, factored, scipy.linalg.cho_solve(factored, e, check_finite=False)
        )

    @property
    def seen(self) -> FloatArray:
        """``A^T x`` before the scale, shape (n_columns,)."""
        return (self.x / self.sigmas) @ self.rows.phi

    def improve(self, back: FloatArray) -> float:
        """Correct the solution, given the weights that make ``H x``; return by what share."""
        residual = self.e - self.x + (self.rows.phi @ back) / self.sigmas
        correction = scipy.linalg.cho_solve(self.factored, residual, check_finite=False)
        share = float(np.linalg.norm(correction)) / max(float(np.linalg.norm(self.x)), 1e-300)
        self.sound = share <= LARGEST_CORRECTION
        self.x += correction
        return share if self.sound else 0.0
