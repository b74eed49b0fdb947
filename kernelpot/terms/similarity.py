"""What kernels that are functions of a similarity have in common."""

from __future__ import annotations

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.terms.base import FastMean, Kernel, RowGradient


class SimilarityKernel:
    """What a `Kernel` gets for nothing from `values`, `slopes` and `own`."""

    def embed(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Features as they are."""
        return x, np.ones(len(x))

    def tangent(self, u: FloatArray, norm: FloatArray, by_x: FloatArray) -> FloatArray:
        """Derivatives as they are."""
        return np.ascontiguousarray(by_x.transpose(1, 0, 2))

    @property
    def explicit(self) -> bool:
        """Points are environments."""
        return False

    @property
    def uncorrelated(self) -> bool:
        """Environments are correlated."""
        return False

    @property
    def between(self: Kernel) -> Kernel:
        """Itself."""
        return self

    def contract(self, cotangent: FloatArray, u: FloatArray, points: FloatArray) -> FloatArray:
        """Derivative of a weighted sum of similarities, but for the part along u."""
        return cotangent @ points

    def row_gradient(
        self: Kernel,
        u: FloatArray,
        norm: FloatArray,
        weight: FloatArray | None,
        points: FloatArray,
        similarity: FloatArray,
        values: FloatArray,
    ) -> RowGradient:
        """Derivative of the kernel by features; see `Kernel.row_gradient`."""
        slope = self.slopes(similarity) / norm[:, None]
        if weight is not None:
            slope *= weight
        return RowGradient(points, u, slope, self.own(similarity), values)

    def __call__(self: Kernel, u: FloatArray, points: FloatArray) -> FloatArray:
        """Covariance of environments and points [eV^2], shape (n, n_points)."""
        return self.values(self.similarity(u, points))

    def gram(self: Kernel, points: FloatArray) -> FloatArray:
        """Kernel of points with each other, symmetric."""
        similarity = self.similarity(points, points)
        return self.values(0.5 * (similarity + similarity.T))

    def fill(self: Kernel, similarity: FloatArray, columns: IntArray, out: FloatArray) -> None:
        """Write the kernel of each point into its column of `out`."""
        out[:, columns] = self.values(similarity[:, : len(columns)])

    def weigh_slopes(self: Kernel, similarity: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Turn a cotangent of the kernel into one of the similarity, in place."""
        cotangent *= self.slopes(similarity)
        return np.einsum("em,em->e", cotangent, self.own(similarity))

    def mean_and_slopes(
        self: Kernel, similarity: FloatArray, weights: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean ``values @ weights`` with its cotangent of the similarity."""
        slopes = self.slopes(similarity) * weights
        own = np.einsum("em,em->e", slopes, self.own(similarity))
        return self.values(similarity) @ weights, slopes, own

    def fast_mean(self, points: FloatArray, weights: FloatArray) -> FastMean | None:
        """None: the kernel is evaluated."""
        return None

    def energy_prior(self, u: FloatArray) -> float | None:
        """None: the kernel is summed."""
        return None

    def derivative_prior(self, u: FloatArray, tangents: FloatArray) -> FloatArray | None:
        """None: the kernel is summed."""
        return None
