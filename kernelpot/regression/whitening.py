"""Whitening: directions in which the prior covariance of the weights is the identity."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from kernelpot.common.types import FloatArray

# Eigenvalues of K_MM below this fraction of the largest are rounding noise.
RELATIVE_EIGENVALUE_CUT = 1e-12


def whitening(K_mm: FloatArray, cut: float = RELATIVE_EIGENVALUE_CUT) -> FloatArray:
    """Return T with ``T.T @ K_mm @ T = I`` on the numerical range of `K_mm`.

    Parameters
    ----------
    K_mm : ndarray of shape (n_sparse, n_sparse)
        Covariance of the sparse points [eV^2]; may be singular (duplicates).
    cut : float
        Eigenvalues below ``cut * largest`` are dropped.

    Returns
    -------
    ndarray of shape (n_sparse, rank)

    Raises
    ------
    numpy.linalg.LinAlgError
        If `K_mm` has an eigenvalue that is negative beyond rounding.
    """
    eigenvalues, vectors = scipy.linalg.eigh(K_mm, driver="evd", check_finite=True)
    largest = eigenvalues[-1]
    rounding = 10 * len(K_mm) * np.finfo(float).eps
    if largest <= 0 or eigenvalues[0] < -max(rounding, cut) * largest:
        raise np.linalg.LinAlgError(
            "the kernel matrix of the sparse points is not positive semidefinite "
            f"(eigenvalues from {eigenvalues[0]:.3g} to {largest:.3g}); "
            "a kernel that is none does this, such as a non-integer zeta: use an integer"
        )
    keep = eigenvalues > cut * largest
    # Largest eigenvalue first, and a fixed sign, so that results are reproducible.
    vectors, eigenvalues = vectors[:, keep][:, ::-1], eigenvalues[keep][::-1]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return np.ascontiguousarray(vectors * (signs / np.sqrt(eigenvalues)))
