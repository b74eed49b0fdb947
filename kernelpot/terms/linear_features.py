"""The kernel of features that energies are linear in, of which one may be known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import FloatArray
from kernelpot.terms.base import FastMean
from kernelpot.terms.similarity import SimilarityKernel


@dataclass(frozen=True)
class LinearKernel(SimilarityKernel):
    r"""Kernel :math:`\delta^2 x \cdot x'` without the last feature, which is known.

    A `kernelpot.terms.base.Kernel` whose points are the unit vectors of feature space. The last
    feature is an energy that no weight is fitted to: its prior variance is zero, and the
    descriptor says its weight (`kernelpot.terms.base.OwnPoints`).

    Parameters
    ----------
    delta : float
        Prior standard deviation of the weights.
    """

    delta: float

    def squares(self, u: FloatArray) -> FloatArray:
        """Squared lengths, without what is known."""
        return np.einsum("ef,ef->e", u[:, :-1], u[:, :-1])

    def similarity(self, u: FloatArray, points: FloatArray) -> FloatArray:
        """Dot products, what is known among them."""
        return u @ points.T

    def own(self, similarity: FloatArray) -> FloatArray:
        """Nothing: the derivative of a dot product is the point."""
        return np.zeros_like(similarity)

    def directional(self, by_u: FloatArray, u: FloatArray, points: FloatArray) -> FloatArray:
        """Derivative of the dot product."""
        return by_u @ points.T

    def diagonal(self) -> float:
        """Prior variance for features of unit length."""
        return float(self.delta) ** 2

    def largest_slope(self) -> float:
        """Constant."""
        return self.diagonal()

    def values(self, similarity: FloatArray) -> FloatArray:
        """Proportional to the dot products."""
        return self.diagonal() * similarity

    def slopes(self, similarity: FloatArray) -> FloatArray:
        """Constant, same shape."""
        return np.full_like(similarity, self.diagonal())

    def curvatures(self, similarity: FloatArray) -> FloatArray:
        """Zeros, same shape."""
        return np.zeros_like(similarity)

    def gram(self, points: FloatArray) -> FloatArray:
        """Prior covariance of the points: none of what is known."""
        fitted = points[:, :-1]
        return self.diagonal() * (fitted @ fitted.T)

    def fast_mean(self, points: FloatArray, weights: FloatArray) -> FastMean | None:
        """A dot product."""
        return _Mean(self.diagonal() * (weights @ points)) if len(points) else None

    def energy_prior(self, u: FloatArray) -> float | None:
        """Squared length of the sum of features, without what is known."""
        return self.diagonal() * float(np.square(u[:, :-1].sum(axis=0)).sum())

    def derivative_prior(self, u: FloatArray, tangents: FloatArray) -> FloatArray | None:
        """Squared length of the sum of their derivatives."""
        moved = tangents[:, :, :-1].sum(axis=1)
        return np.asarray(self.diagonal() * np.einsum("cf,cf->c", moved, moved))


@dataclass(frozen=True)
class _Mean:
    vector: FloatArray

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        return u @ self.vector, np.tile(self.vector, (len(u), 1)), np.zeros(len(u))
