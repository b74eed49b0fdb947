"""Kernels that are functions of the distance of features as they are: Gaussian, Matérn 5/2."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import FloatArray
from kernelpot.terms.base import FastMean, Kernel
from kernelpot.terms.parameters import require
from kernelpot.terms.similarity import SimilarityKernel
from kernelpot.terms.tabulation import Tabulation

SQRT5 = math.sqrt(5.0)


@dataclass(frozen=True)
class StationaryKernel(SimilarityKernel):
    r"""A function of the distance of features, by the similarity :math:`s = -|x - y|^2 / 2`.

    Parameters
    ----------
    length_scale : float
        :math:`\theta`, in the unit of the features.
    delta : float
        Prior standard deviation [eV].
    tabulation : Tabulation, optional
        Makes a table of the mean, where features are few.
    """

    length_scale: float
    delta: float
    tabulation: Tabulation | None = None

    def squares(self, u: FloatArray) -> FloatArray:
        """Squared lengths of features, shape (n,)."""
        return np.einsum("ef,ef->e", u, u)

    def similarity(self, u: FloatArray, points: FloatArray) -> FloatArray:
        """Half the squared distances, negative, shape (n, n_points)."""
        if u.shape[1] <= 3:  # exact differences, where products would lose digits
            found = np.zeros((len(u), len(points)))
            for f in range(u.shape[1]):
                found -= 0.5 * np.square(u[:, f, None] - points[:, f])
            return found
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
        return float(self.slopes(np.zeros(1))[0])

    def slopes(self, similarity: FloatArray) -> FloatArray:
        """Derivative of the kernel by the similarity, same shape."""
        raise NotImplementedError

    def fast_mean(self: Kernel, points: FloatArray, weights: FloatArray) -> FastMean | None:
        """A table of the mean, if there is to be one and points to make it of."""
        tabulation = self.tabulation  # type: ignore[attr-defined]
        return None if tabulation is None else tabulation(self, points, weights)


@dataclass(frozen=True)
class GaussianKernel(StationaryKernel):
    r"""Kernel :math:`\delta^2 \exp(-|x - y|^2 / 2 \theta^2)` [1]_.

    Parameters
    ----------
    length_scale, delta, tabulation
        As in `StationaryKernel`.

    References
    ----------
    .. [1] Rasmussen, Williams, Gaussian Processes for Machine Learning (2006), eq. (4.9).
    """

    def values(self, similarity: FloatArray) -> FloatArray:
        """Kernel from similarities, same shape."""
        return self.diagonal() * np.exp(similarity / self.length_scale**2)

    def slopes(self, similarity: FloatArray) -> FloatArray:
        """Derivative of the kernel by the similarity, same shape."""
        return self.values(similarity) / self.length_scale**2

    def curvatures(self, similarity: FloatArray) -> FloatArray:
        """Second derivative of the kernel by the similarity, same shape."""
        return self.values(similarity) / self.length_scale**4


@dataclass(frozen=True)
class Matern52Kernel(StationaryKernel):
    r"""Kernel :math:`\delta^2 (1 + a r + a^2 r^2 / 3) e^{-a r}`, :math:`a = \sqrt 5 / \theta` [1]_.

    Functions that are twice differentiable, no more: less sure of themselves between points than
    those of the Gaussian kernel.

    Parameters
    ----------
    length_scale, delta, tabulation
        As in `StationaryKernel`.

    References
    ----------
    .. [1] Rasmussen, Williams, Gaussian Processes for Machine Learning (2006), eq. (4.17).
    """

    def _scaled(self, similarity: FloatArray) -> FloatArray:
        """A times the distance."""
        return np.sqrt(np.maximum(-2.0 * similarity, 0.0)) * (SQRT5 / self.length_scale)

    def values(self, similarity: FloatArray) -> FloatArray:
        """Kernel from similarities, same shape."""
        ar = self._scaled(similarity)
        return self.diagonal() * (1.0 + ar + ar**2 / 3.0) * np.exp(-ar)

    def slopes(self, similarity: FloatArray) -> FloatArray:
        """Derivative of the kernel by the similarity, same shape."""
        ar = self._scaled(similarity)
        return self.diagonal() * (5.0 / 3.0 / self.length_scale**2) * (1.0 + ar) * np.exp(-ar)

    def curvatures(self, similarity: FloatArray) -> FloatArray:
        """Second derivative of the kernel by the similarity, same shape."""
        factor = self.diagonal() * (25.0 / 3.0 / self.length_scale**4)
        return factor * np.exp(-self._scaled(similarity))


FUNCTIONS: dict[str, type[GaussianKernel | Matern52Kernel]] = {
    "gaussian": GaussianKernel,
    "matern52": Matern52Kernel,
}
NAMES = {"gaussian": "Gaussian", "matern52": "Matérn 5/2"}


def require_function(name: str) -> None:
    """Refuse a name that is none of these.

    Raises
    ------
    ValueError
    """
    require(name in FUNCTIONS, "function", f"one of {', '.join(FUNCTIONS)}", name)
