"""The Gaussian kernel on features as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import FloatArray
from kernelpot.terms.similarity import SimilarityKernel


@dataclass(frozen=True)
class GaussianKernel(SimilarityKernel):
    r"""Kernel :math:`\delta^2 \exp(-|x - y|^2 / 2 \theta^2)` [1]_.

    A `kernelpot.terms.base.Kernel` with the similarity :math:`-|x - y|^2 / 2`.

    Parameters
    ----------
    length_scale : float
        :math:`\theta`, in the unit of the features.
    delta : float
        Prior standard deviation [eV].

    References
    ----------
    .. [1] Rasmussen, Williams, Gaussian Processes for Machine Learning (2006), eq. (4.9).
    """

    length_scale: float
    delta: float

    def squares(self, u: FloatArray) -> FloatArray:
        """Squared lengths of features, shape (n,)."""
        return np.einsum("ef,ef->e", u, u)

    def similarity(self, u: FloatArray, points: FloatArray) -> FloatArray:
        """Half the squared distances, negative, shape (n, n_points)."""
        if u.shape[1] == 1:  # exact differences, where products would lose digits
            return -0.5 * np.square(u - points[:, 0])
        found = u @ points.T
        found -= 0.5 * self.squares(u)[:, None]
        found -= 0.5 * self.squares(points)
        return np.minimum(found, 0.0, out=found)

    def own(self, similarity: FloatArray) -> FloatArray:
        """Ones: the derivative of the similarity is the difference of the features."""
        return np.ones_like(similarity)

    def directional(self, by_u: FloatArray, u: FloatArray, points: FloatArray) -> FloatArray:
        """Derivative of the similarity along derivatives of features."""
        return by_u @ points.T - np.einsum("ef,ef->e", by_u, u)[:, None]

    def diagonal(self) -> float:
        """Prior variance of any environment [eV^2]."""
        return float(self.delta) ** 2

    def largest_slope(self) -> float:
        """Slope at a distance of zero."""
        return self.diagonal() / self.length_scale**2

    def values(self, similarity: FloatArray) -> FloatArray:
        """Kernel from similarities, same shape."""
        return self.diagonal() * np.exp(similarity / self.length_scale**2)

    def slopes(self, similarity: FloatArray) -> FloatArray:
        """Derivative of the kernel by the similarity, same shape."""
        return self.values(similarity) / self.length_scale**2

    def curvatures(self, similarity: FloatArray) -> FloatArray:
        """Second derivative of the kernel by the similarity, same shape."""
        return self.values(similarity) / self.length_scale**4
