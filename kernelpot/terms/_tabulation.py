"""Tensor products of uniform cubic B-splines in three dimensions, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``e`` environment, ``f`` feature.
"""

import numba
import numpy as np

from kernelpot.common._numba import INLINED, OPTIONS


@numba.njit(**INLINED)
def _basis(t, value_4, slope_4):
    """Fill the four B-splines that overlap a cell, and their slopes, at ``t`` of its width."""
    s = 1.0 - t
    value_4[0] = s * s * s / 6.0
    value_4[1] = (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0
    value_4[2] = (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0
    value_4[3] = t * t * t / 6.0
    slope_4[0] = -0.5 * s * s
    slope_4[1] = 1.5 * t * t - 2.0 * t
    slope_4[2] = -1.5 * s * s + 2.0 * s
    slope_4[3] = 0.5 * t * t


@numba.njit(**OPTIONS)
def evaluate(coefficients, origin_f, step, u_ef, value_e, by_u_ef):
    """Fill value and derivative of a spline at points within its grid."""
    a, da = np.empty(4), np.empty(4)
    b, db = np.empty(4), np.empty(4)
    c, dc = np.empty(4), np.empty(4)
    for e in range(u_ef.shape[0]):
        x = (u_ef[e, 0] - origin_f[0]) / step
        y = (u_ef[e, 1] - origin_f[1]) / step
        z = (u_ef[e, 2] - origin_f[2]) / step
        i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        _basis(x - i, a, da)
        _basis(y - j, b, db)
        _basis(z - k, c, dc)
        value = by_x = by_y = by_z = 0.0
        for p in range(4):
            plane = plane_y = plane_z = 0.0
            for q in range(4):
                row = row_z = 0.0
                for r in range(4):
                    known = coefficients[i - 1 + p, j - 1 + q, k - 1 + r]
                    row += c[r] * known
                    row_z += dc[r] * known
                plane += b[q] * row
                plane_y += db[q] * row
                plane_z += b[q] * row_z
            value += a[p] * plane
            by_x += da[p] * plane
            by_y += a[p] * plane_y
            by_z += a[p] * plane_z
        value_e[e] = value
        by_u_ef[e, 0] = by_x / step
        by_u_ef[e, 1] = by_y / step
        by_u_ef[e, 2] = by_z / step
