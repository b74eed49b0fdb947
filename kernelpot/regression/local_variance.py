"""The posterior variance of local energies of one species."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from kernelpot.common.archive import pack_triangle, unpack_triangle
from kernelpot.common.types import FloatArray, IntArray

# A posterior variance above the prior by less than this is rounding.
SHRINK_ROUNDING = 1e-6
# Leading blocks that are kept; the safety net asks for two sizes.
MAX_BLOCKS = 4


@dataclass(frozen=True)
class SparseBasis:
    """Sparse points of one species, the most representative first (pivoted Cholesky).

    Attributes
    ----------
    order : ndarray of shape (rank,)
        Sparse points (all blocks of the species, one after the other) in that order.
    basis : ndarray of shape (n, n)
        Orthogonal, in the whitened coordinates: what the first m points span are its first m
        columns.
    corner : ndarray of shape (n, rank)
        The points in this basis, upper triangular [eV].
    """

    order: IntArray
    basis: FloatArray
    corner: FloatArray

    @classmethod
    def of(cls, whitening: Sequence[FloatArray]) -> SparseBasis:
        """Order the points of some blocks.

        Parameters
        ----------
        whitening : sequence of ndarray of shape (n_sparse, rank) or (n_sparse,)
            T of each block, or its diagonal; the species' T is block diagonal.
        """
        # coordinates of the sparse points in the whitened basis: P P^T = K_MM
        if all(T.ndim == 1 or not T.size for T in whitening):  # no correlation: in a good order
            points = np.diag(1.0 / np.concatenate([np.empty(0), *map(np.ravel, whitening)]))
            return cls(np.arange(len(points)), np.eye(len(points)), points)
        T = scipy.linalg.block_diag(*(np.diag(T) if T.ndim == 1 else T for T in whitening))
        P = T / np.einsum("mr,mr->r", T, T)
        pivots, rank = scipy.linalg.lapack.dpstrf(P @ P.T, lower=1)[1:3]
        order = pivots[: min(rank, P.shape[1])].astype(np.int64) - 1
        basis, corner = scipy.linalg.qr(P[order].T)
        return cls(order, basis, corner)


@dataclass(frozen=True)
class LocalVariance:
    r"""Posterior variance of local energies of one species (DTC).

    With :math:`\phi = T^\top k_*` the variance is
    :math:`v = k_{**} - |\phi|^2 + |S \phi|^2`: what the sparse points do not span
    (novelty) plus what the data leave open. Here it is written as

    .. math:: v = k_{**} - |G k_*|^2, \qquad
              G^\top G = T (1 - S^\top S) T^\top ,

    G lower triangular in an order of the sparse points that puts the most
    representative first (pivoted Cholesky): one triangular product per environment.
    The leading block of G with the first m points alone gives an upper bound, the
    variance of the best that m points can explain; it falls to the exact value as m
    grows.

    Parameters
    ----------
    order : ndarray of shape (rank,)
        Sparse points (all blocks of the species, one after the other) in that order.
    reduction : ndarray of shape (rank, rank)
        G, lower triangular, Fortran order [1/eV].
    """

    order: IntArray
    reduction: FloatArray

    def __getstate__(self) -> dict[str, FloatArray | IntArray]:
        """Half of the triangle's matrix is zero."""
        return {"order": self.order, "packed": pack_triangle(self.reduction.T)}

    def __setstate__(self, state: Mapping[str, FloatArray | IntArray]) -> None:
        """Inverse of `__getstate__`."""
        reduction = unpack_triangle(state["packed"]).T
        vars(self).update(order=state["order"], reduction=reduction)

    @classmethod
    def of(
        cls, sparse: SparseBasis | Sequence[FloatArray], posterior_factor: FloatArray
    ) -> LocalVariance:
        """Build from the whitening of each block and S.

        Parameters
        ----------
        sparse : SparseBasis or sequence of ndarray
            The species' sparse points, or the whitening that they are ordered by.
        posterior_factor : ndarray of shape (n, rank)
            S of `TriangularFactor.posterior_factor`.

        Raises
        ------
        FloatingPointError
            If a variance exceeds the prior beyond rounding.
        """
        if not posterior_factor.size:  # no sparse points: the prior is all there is
            return cls(np.empty(0, dtype=np.int64), np.zeros((0, 0), order="F"))
        known = sparse if isinstance(sparse, SparseBasis) else SparseBasis.of(sparse)
        order, corner = known.order, known.corner
        n = len(order)
        # (1 - S^T S) in that basis as F^T F, F lower triangular
        F = _shrinkage_factor(_left_open(posterior_factor @ known.basis))
        G = scipy.linalg.solve_triangular(corner[:n], F[:n, :n].T, overwrite_b=True).T
        return cls(order, np.asfortranarray(np.tril(G)))

    def __call__(
        self, prior: FloatArray | float, k: FloatArray, points: int | None = None
    ) -> FloatArray:
        """Variance of environments.

        Parameters
        ----------
        prior : float or ndarray of shape (n_env,)
            :math:`k_{**}` [eV^2].
        k : ndarray of shape (n_env, n)
            Kernel with the sparse points named by `order`, in that order (or the first
            `points` of them).
        points : int, optional
            Use so many points only: an upper bound.

        Returns
        -------
        ndarray of shape (n_env,)
            [eV^2], not negative.

        Raises
        ------
        FloatingPointError
            If a variance is negative beyond rounding (a bug, never clipped silently).
        """
        return self.unexplained(prior, self.explain(np.array(k[:, :points], order="C")))

    def explain(self, k: FloatArray) -> FloatArray:
        """What the sparse points know of environments: :math:`G k_*`, in place.

        Parameters
        ----------
        k : ndarray of shape (n_env, n)
            As for the variance, C-contiguous; destroyed.

        Returns
        -------
        ndarray of shape (n_env, n)
            For `unexplained` and `gradient_of`.
        """
        return self._product(k, transpose=False)

    def unexplained(self, prior: FloatArray | float, explained: FloatArray) -> FloatArray:
        """Variance of environments from `explain`; see there and `__call__`."""
        variance = prior - np.einsum("em,em->e", explained, explained)
        # |G k|^2 carries the rounding of lambda^-1/2: 1e-16 / sqrt(1e-12)
        if np.any(variance < -1e-6 * np.asarray(prior)):
            raise FloatingPointError(f"negative variance {variance.min():.3g} eV^2")
        return np.maximum(variance, 0.0)

    def gradient(self, k: FloatArray) -> FloatArray:
        """Derivative of the variance by `k`, shape (n_env, rank)."""
        return self.gradient_of(self.explain(np.array(k, order="C")))

    def gradient_of(self, explained: FloatArray) -> FloatArray:
        """Derivative of the variance by k from what `explain` made of it, in place."""
        return self._product(explained, transpose=True, factor=-2.0)

    def _product(self, rows: FloatArray, *, transpose: bool, factor: float = 1.0) -> FloatArray:
        """``rows @ G.T`` (or ``rows @ G``) with the leading block of G, in place."""
        n = rows.shape[1]
        if n == 0:
            return rows
        product = scipy.linalg.blas.dtrmm(
            factor, self._leading(n), rows.T, lower=1, trans_a=int(transpose), overwrite_b=1
        )
        return product.T

    def _leading(self, n: int) -> FloatArray:
        """Leading block of G: a copy, kept, as BLAS would be given one for each product."""
        if n == len(self.order):
            return self.reduction
        block = self._blocks.get(n)
        if block is None:
            block = np.asfortranarray(self.reduction[:n, :n])
            if len(self._blocks) >= MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[n] = block
        return block

    @cached_property
    def _blocks(self) -> dict[int, FloatArray]:
        """Leading blocks by their size."""
        return {}


def _left_open(S: FloatArray) -> FloatArray:
    """``1 - S.T @ S``; there may be no room for more such matrices than it needs."""
    found = S.T @ S
    np.negative(found, out=found)
    found[np.diag_indices_from(found)] += 1.0
    return found


def _shrinkage_factor(shrinkage: FloatArray) -> FloatArray:
    """Lower triangular F with ``F.T @ F`` that matrix.

    Raises
    ------
    FloatingPointError
        If it is negative beyond rounding.
    """
    try:
        return np.asarray(scipy.linalg.cholesky(shrinkage[::-1, ::-1])[::-1, ::-1])
    except np.linalg.LinAlgError:  # directions of which the data say nothing: zero to rounding
        shrink, vectors = scipy.linalg.eigh(shrinkage)
    if shrink[0] < -SHRINK_ROUNDING:
        raise FloatingPointError(
            f"a posterior variance exceeds its prior by a factor of {1.0 - shrink[0]:.6g}"
        )
    half = np.sqrt(np.maximum(shrink, 0.0))[:, None] * vectors.T
    return np.asarray(scipy.linalg.qr(half[:, ::-1], mode="r")[0][::-1, ::-1])
