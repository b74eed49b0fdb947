"""The dot-product kernel of GAP on normalized features, with its derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.terms import _dot_product


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
    norm = np.sqrt(np.einsum("ef,ef->e", features, features))
    return features / norm[:, None], norm


@dataclass(frozen=True)
class DotProductKernel:
    r"""Kernel :math:`\delta^2 (\hat p \cdot \hat q)^\zeta` [1]_.

    All methods take unit feature vectors (`normalize`).

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

    def cosine(self, unit: FloatArray, unit_sparse: FloatArray) -> FloatArray:
        """Dot products, shape (n_env, n_sparse); not negative for a non-integer zeta."""
        cosine = unit @ unit_sparse.T
        if self._args[1] < 0:
            np.maximum(cosine, 0.0, out=cosine)
        return cosine

    def __call__(self, unit: FloatArray, unit_sparse: FloatArray) -> FloatArray:
        """Covariance of local energies [eV^2], shape (n_env, n_sparse)."""
        return self.values(self.cosine(unit, unit_sparse))

    def diagonal(self) -> float:
        """Prior variance of any local energy [eV^2]."""
        return float(self.delta) ** 2

    def values(self, cosine: FloatArray) -> FloatArray:
        """Kernel from dot products, same shape."""
        out = np.empty_like(cosine)
        _dot_product.kernel_values(cosine, *self._args, out)
        return out

    def fill(self, cosine: FloatArray, columns: IntArray, out: FloatArray) -> None:
        """Write the kernel of each sparse point into its column of `out`."""
        _dot_product.fill_kernel(cosine, *self._args, columns, out)

    def slopes(self, cosine: FloatArray) -> FloatArray:
        """Derivative of the kernel with respect to the dot product, same shape."""
        out = np.empty_like(cosine)
        _dot_product.kernel_slopes(cosine, *self._args, out)
        return out

    def curvatures(self, cosine: FloatArray) -> FloatArray:
        """Second derivative of the kernel with respect to the dot product, same shape."""
        zeta = self.zeta
        if zeta == 1:
            return np.zeros_like(cosine)
        return zeta * (zeta - 1.0) * self.diagonal() * cosine ** (zeta - 2)

    def weigh_slopes(self, cosine: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Turn a cotangent of the kernel into one of the cosine, in place.

        Returns
        -------
        ndarray of shape (n_env,)
            The component along the center's own features, which normalization removes.
        """
        projection = np.empty(len(cosine))
        _dot_product.weigh_slopes(cosine, *self._args, cotangent, projection)
        return projection

    def mean_and_slopes(
        self, cosine: FloatArray, weights: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean ``k @ weights`` with its cotangent of the cosine.

        Returns
        -------
        mean : ndarray of shape (n_env,)
        slopes : ndarray of shape (n_env, n_sparse)
        projection : ndarray of shape (n_env,)
            As from `weigh_slopes`.
        """
        mean = np.empty(len(cosine))
        projection = np.empty(len(cosine))
        slopes = np.empty_like(cosine)
        _dot_product.mean_and_slopes(cosine, *self._args, weights, mean, slopes, projection)
        return mean, slopes, projection
