r"""Noise and prior scales from the data: evidence with exact gradients.

Rows compressed group by group (`GroupedFactor`) hold all that is needed: with
:math:`A_g = \Phi_g D / \sigma_g`, D the scales of the columns, and
:math:`R^\top R = I + \sum_g A_g^\top A_g`,

.. math:: -2 \log p = |r|^2 + 2 \log |R| + \sum_g 2 n_g \log \sigma_g + n \log 2\pi ,
          \qquad |r|^2 = \min_w |y - A w|^2 + |w|^2

.. math:: \partial/\partial \log \sigma_g = 2 n_g - 2 |A_g R^{-1}|_F^2 - 2 |y_g - A_g w|^2

.. math:: \partial/\partial \log \delta_t = 2 (m_t - |R^{-1}_{t,:}|_F^2) - 2 |w_t|^2

with :math:`m_t` columns of term t (the marginal likelihood of [1]_, sec. 5.4.1, with the
prior covariance of the weights whitened to the identity).

References
----------
.. [1] Rasmussen, Williams, Gaussian Processes for Machine Learning (2006).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.regression.factors import GroupedFactor, TriangularFactor
from kernelpot.regression.layout import Layout


@dataclass(frozen=True)
class Evidence:
    """Minus twice the log marginal likelihood, with its gradient.

    Attributes
    ----------
    value : float
        Of the targets in units of their noise at unit sigma.
    by_sigma : dict of group to float
        Derivative with respect to log sigma of each group.
    by_scale : ndarray of shape (n_blocks,)
        Derivative with respect to the log of a common factor of each block's columns.
    n_parameters : float
        Effective number of parameters: the trace of the hat matrix.
    """

    value: float
    by_sigma: dict[Hashable, float]
    by_scale: FloatArray
    n_parameters: float


def evidence(
    grouped: GroupedFactor,
    sigma: Mapping[Any, float],
    scale: FloatArray,
    blocks: Sequence[IntArray],
) -> Evidence:
    """Evidence of noise parameters and column scales.

    Parameters
    ----------
    grouped : GroupedFactor
    sigma : mapping of group to float
    scale : ndarray of shape (n_features,)
        Prior standard deviation of each column's weight.
    blocks : sequence of integer ndarray
        Columns that share a scale (of one term).

    Returns
    -------
    Evidence
    """
    factor = grouped.posterior(sigma.__getitem__, scale)
    w = factor.solve()
    inverse, info = scipy.linalg.lapack.dtrtri(factor.R)
    if info != 0:
        raise np.linalg.LinAlgError(f"inverse of R failed (LAPACK dtrtri, info={info})")
    open_ = np.einsum("ij,ij->i", inverse, inverse)  # diagonal of (R^T R)^-1
    counts = grouped.counts
    n_rows = sum(counts.values())
    value = factor.residual + 2.0 * np.log(np.abs(factor.R.diagonal())).sum()
    value += sum(2.0 * n * np.log(sigma[g]) for g, n in counts.items()) + n_rows * np.log(2 * np.pi)

    n_parameters = float(len(w) - open_.sum())
    # the groups' shares of the hat matrix sum to its trace: the dearest comes for free
    groups = grouped.groups
    dearest = max(groups, key=lambda g: (g in grouped.triangles, counts[g]), default=None)
    shares = {
        g: _hat_trace(grouped, g, scale, inverse) / sigma[g] ** 2 for g in groups if g != dearest
    }
    if dearest is not None:
        shares[dearest] = n_parameters - sum(shares.values())
    by_sigma = {
        g: 2.0 * counts[g]
        - 2.0 * shares[g]
        - 2.0 * _squared_residual(grouped, g, scale * w) / sigma[g] ** 2
        for g in groups
    }
    by_scale = np.array(
        [2.0 * (len(b) - open_[b].sum()) - 2.0 * float(w[b] @ w[b]) for b in blocks]
    )
    return Evidence(float(value), by_sigma, by_scale, n_parameters)


def effective_parameters(factor: TriangularFactor) -> float:
    """Trace of the hat matrix: how many parameters the data determine."""
    inverse, _ = scipy.linalg.lapack.dtrtri(factor.R)
    return float(factor.n_features - np.einsum("ij,ij->", inverse, inverse))


def prior_amplitude(factor: TriangularFactor) -> float:
    r"""By how much the weights found exceed what the prior expects of them.

    The evidence is largest for a prior whose standard deviations are
    :math:`\sqrt{|w|^2 / \gamma}` times those assumed, with :math:`\gamma` effective
    parameters (MacKay, Neural Computation 4, 415 (1992), eq. 4.8): where the derivative by the
    log of a common scale, as in `evidence`, vanishes. Posterior standard deviations beyond
    the data are too small by about this factor.

    Parameters
    ----------
    factor : TriangularFactor

    Returns
    -------
    float
        1 where nothing was determined.
    """
    w = factor.solve()
    n_parameters = effective_parameters(factor)
    return float(np.sqrt(w @ w / n_parameters)) if w.any() and n_parameters > 0 else 1.0


def _hat_trace(
    grouped: GroupedFactor, group: Hashable, scale: FloatArray, inverse: FloatArray
) -> float:
    """``|Phi_g D R^-1|_F^2`` of one group."""
    if group in grouped.triangles:
        scaled = np.asfortranarray(grouped.triangles[group].R * scale)
        product = scipy.linalg.blas.dtrmm(1.0, scaled, np.array(inverse, order="F"), overwrite_b=1)
    else:
        product = (grouped.rows[group][:, :-1] * scale) @ inverse
    return float(np.einsum("ij,ij->", product, product))


def _squared_residual(grouped: GroupedFactor, group: Hashable, weights: FloatArray) -> float:
    """``|y_g - Phi_g w|^2`` of one group."""
    if group in grouped.triangles:
        matrix = grouped.triangles[group].matrix
        e = matrix[:-1, -1] - np.triu(matrix[:-1, :-1]) @ weights
        return float(e @ e + matrix[-1, -1] ** 2)
    rows = grouped.rows[group]
    e = rows[:, -1] - rows[:, :-1] @ weights
    return float(e @ e)


def leading_columns(layout: Layout, n_columns: int) -> IntArray:
    """The first whitened columns of each block, in proportion, about `n_columns` in all.

    Whitened columns are sorted by eigenvalue: what is left out matters least. The last
    column (virial offset, behind the layout) is always among them.

    Parameters
    ----------
    layout : Layout
    n_columns : int

    Returns
    -------
    ndarray of int
        Ascending; all columns where there are no more than `n_columns`.
    """
    share = min(1.0, n_columns / max(layout.size, 1))
    kept = [
        np.arange(s.start, s.start + int(np.ceil(share * (s.stop - s.start))))
        for s in layout.columns
    ]
    return np.concatenate([*kept, [layout.size]]).astype(np.int64)


def select_columns(grouped: GroupedFactor, columns: IntArray) -> GroupedFactor:
    """The same rows with some of the columns only."""
    result = GroupedFactor(len(columns))
    with_targets = np.append(columns, grouped.n_features)
    for group in grouped.groups:
        if group in grouped.triangles:
            triangle = grouped.triangles[group]
            part = np.triu(triangle.matrix)[:, with_targets]
            smaller = TriangularFactor(len(columns), prior=False)
            smaller.update(part[:, :-1], part[:, -1])
            smaller.n_rows = triangle.n_rows
            result.triangles[group] = smaller
        else:
            rows = grouped.rows[group]
            result.update(group, rows[:, columns], rows[:, -1])
    return result
