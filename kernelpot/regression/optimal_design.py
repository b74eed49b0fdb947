r"""Choosing groups of labels that lower the mean variance of many quantities most.

With the posterior covariance C of the weights, labels with the noise-scaled rows B leave

.. math:: C' = C - C B^\top (1 + B C B^\top)^{-1} B C ,

so the mean variance of quantities with rows t falls by the trace of
:math:`(1 + B C B^\top)^{-1} B C A C B^\top` with :math:`A = \langle t t^\top \rangle`. Choosing the
group that gains most, one after the other, is the A-optimal ("integrated variance") design of [1]_.
The largest variance would go for outliers, whose labels tell little of anything else.

References
----------
.. [1] Cohn, Ghahramani, Jordan, J. Artif. Intell. Res. 4, 129 (1996), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from kernelpot.common.parallel import single_blas_thread
from kernelpot.common.types import FloatArray, IntArray, Progress


def choose_for_the_mean(
    rows: Sequence[FloatArray],
    weights: Sequence[FloatArray],
    R: FloatArray,
    n: int,
    *,
    progress: Progress | None = None,
) -> tuple[IntArray, FloatArray]:
    """Choose groups of labels, the most telling about all groups first.

    Parameters
    ----------
    rows : sequence of ndarray of shape (n_labels, n_columns)
        Features of the labels of each group, divided by their noise; overwritten.
    weights : sequence of ndarray of shape (n_labels,)
        What each label counts in the mean, times its noise (which gives the variance its
        unit); zero where it is not of interest.
    R : ndarray of shape (n_columns, n_columns)
        Upper triangular factor of the posterior precision.
    n : int
        How many to choose.
    progress : callable, optional

    Returns
    -------
    chosen : ndarray of shape (n,)
    left : ndarray of shape (n,)
        Sum of the squared weights times variances of all labels after each choice. Memory is
        twice that of the rows, time per choice that of one product of all rows with a
        square matrix.
    """
    stops = np.cumsum([len(group) for group in rows])
    parts = [slice(stop - len(g), stop) for stop, g in zip(stops, rows, strict=True)]
    with single_blas_thread():
        # in these coordinates the present covariance is 1
        V = np.empty((len(R), stops[-1]))
        for part, group in zip(parts, rows, strict=True):
            V[:, part] = scipy.linalg.solve_triangular(R, group.T, trans="T", check_finite=False)
        wanted = V * np.concatenate(weights)
        A = wanted @ wanted.T
        del wanted
        CV = V.copy()
        variance = float(np.trace(A))
        chosen: list[int] = []
        left: list[float] = []
        while len(chosen) < n:
            AV = A @ CV
            gains = np.full(len(parts), -np.inf)
            for k, part in enumerate(parts):
                if k in chosen:
                    continue
                own = CV[:, part]
                S = np.eye(own.shape[1]) + V[:, part].T @ own
                solved = scipy.linalg.solve(S, own.T @ AV[:, part], assume_a="pos")
                gains[k] = np.trace(solved)
            best = int(gains.argmax())
            part = parts[best]
            own = CV[:, part].copy()
            S = np.eye(own.shape[1]) + V[:, part].T @ own
            CV -= own @ scipy.linalg.solve(S, own.T @ V, assume_a="pos")
            variance -= float(gains[best])
            chosen.append(best)
            left.append(max(variance, 0.0))
            if progress is not None:
                progress("choice", len(chosen), n)
    return np.array(chosen), np.array(left)
