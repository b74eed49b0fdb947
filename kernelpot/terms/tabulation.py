"""Means of few features as splines: what they cost does not depend on the sparse points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from kernelpot.common.types import FloatArray
from kernelpot.terms import _tabulation
from kernelpot.terms.base import FastMean, Kernel

# Beyond the points by so many steps: what the ends of a grid do to a cubic spline falls by 0.27
# with each of them.
PADDING = 10
# Distances beyond the points that are tabulated [Å]; others are left to the kernel.
MARGIN = 0.5
# Nodes whose kernels with all points are formed at a time, and environments that errors are
# measured at.
CHUNK, PROBES = 4096, 2000
# A table of more nodes is refused: 400 MB.
MAX_NODES = 50_000_000

Mean = tuple[FloatArray, FloatArray, FloatArray]

if TYPE_CHECKING:  # which take long to import, and few models need them
    from scipy.interpolate import BSpline


@dataclass(frozen=True)
class Tabulation:
    """How the mean of a kernel on few features becomes a spline; kernels call it.

    Parameters
    ----------
    step : float
        Distance of nodes, in the unit of the features. One feature has a spline of the fifth
        degree, three a tensor product of cubic ones.
    """

    step: float

    def __call__(self, kernel: Kernel, points: FloatArray, weights: FloatArray) -> FastMean | None:
        """Make the table; None without points.

        Parameters
        ----------
        kernel : Kernel
        points : ndarray of shape (n_points, 1 or 3)
        weights : ndarray of shape (n_points,)

        Returns
        -------
        Table or None

        Raises
        ------
        ValueError
            If the table would be too large.
        """
        if not len(points):
            return None
        exact = _Exact(kernel, points, weights)
        make = _line if points.shape[1] == 1 else _grid
        return Table(exact, *make(exact, self.step))


@dataclass(frozen=True)
class _Exact:
    """The mean by the kernel, with its derivative (nothing of it is along the features)."""

    kernel: Kernel
    points: FloatArray
    weights: FloatArray

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean, by_u = np.empty(len(u)), np.empty_like(u)
        for start in range(0, len(u), CHUNK):
            own = slice(start, start + CHUNK)
            similarity = self.kernel.similarity(u[own], self.points)
            mean[own], slopes, along = self.kernel.mean_and_slopes(similarity, self.weights)
            by_u[own] = slopes @ self.points - along[:, None] * u[own]
        return mean, by_u


@dataclass(frozen=True)
class Table:
    """A mean as a spline; a `FastMean`. Beyond the table the kernel is evaluated.

    Attributes
    ----------
    exact : callable
        The mean by the kernel.
    low, high : ndarray of shape (n_features,)
        Within these the spline is taken.
    spline : callable
        Values and derivatives of points within.
    """

    exact: _Exact
    low: FloatArray
    high: FloatArray
    spline: Callable[[FloatArray], tuple[FloatArray, FloatArray]]

    @cached_property
    def errors(self) -> tuple[float, float]:
        """Largest differences from the kernel at random places between the nodes.

        Of values [eV] and slopes [eV by the unit of the features].
        """
        places = np.random.default_rng(0).random((PROBES, len(self.low)))
        u = self.low + (self.high - self.low) * places
        value, slope = (
            float(np.abs(a - b).max()) for a, b in zip(self.spline(u), self.exact(u), strict=True)
        )
        return value, slope

    def __call__(self, u: FloatArray) -> Mean:
        """Mean, derivative and its part along u, which is none; see `FastMean`."""
        inside = np.all((u >= self.low) & (u <= self.high), axis=1)
        if inside.all():
            mean, by_u = self.spline(u)
        else:
            mean, by_u = np.empty(len(u)), np.empty_like(u)
            for where, function in ((inside, self.spline), (~inside, self.exact)):
                if where.any():
                    mean[where], by_u[where] = function(u[where])
        return mean, by_u, np.zeros(len(u))


@dataclass(frozen=True)
class _Line:
    """A spline of one feature and its derivative."""

    value: BSpline
    slope: BSpline

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.value(u[:, 0]), self.slope(u)


def _line(exact: _Exact, step: float) -> tuple[FloatArray, FloatArray, _Line]:
    from scipy.interpolate import make_interp_spline  # which takes long to import

    low, high = exact.points.min(axis=0) - MARGIN, exact.points.max(axis=0) + MARGIN
    nodes = low[0] + step * np.arange(-PADDING, np.ceil((high - low)[0] / step) + PADDING + 1)
    value = make_interp_spline(nodes, exact(nodes[:, None])[0], k=5)
    return low, high, _Line(value, value.derivative())


@dataclass(frozen=True)
class _Grid:
    """A tensor product of cubic splines of three features."""

    coefficients: FloatArray
    origin: FloatArray
    step: float

    def __call__(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean, by_u = np.empty(len(u)), np.empty_like(u)
        u = np.ascontiguousarray(u)
        _tabulation.evaluate(self.coefficients, self.origin, self.step, u, mean, by_u)
        return mean, by_u


def _grid(exact: _Exact, step: float) -> tuple[FloatArray, FloatArray, _Grid]:
    from scipy.ndimage import spline_filter  # which takes long to import

    low, high = exact.points.min(axis=0), exact.points.max(axis=0)
    shape = [int(n) + 2 + 2 * PADDING for n in np.ceil((high - low) / step)]
    if np.prod(shape) > MAX_NODES:
        raise ValueError(
            f"a table of {' x '.join(map(str, shape))} nodes is too large: use a wider step than "
            f"{step:g}"
        )
    origin = low - PADDING * step
    axes = [o + step * np.arange(n) for o, n in zip(origin, shape, strict=True)]
    values = np.empty(shape)
    for i, j in product(range(shape[0]), range(shape[1])):
        nodes = np.empty((shape[2], 3))
        nodes[:, 0], nodes[:, 1], nodes[:, 2] = axes[0][i], axes[1][j], axes[2]
        values[i, j] = exact.kernel(nodes, exact.points) @ exact.weights
    return low, high, _Grid(spline_filter(values, order=3, mode="mirror"), origin, step)
