"""Triplets of a center and two of its neighbors, compiled.

Arrays in, arrays out; no checks. Suffixes: ``p`` pair, ``t`` triplet, ``c`` Cartesian, ``f``
feature, ``i`` atom. The two pairs of a triplet are ``a`` and ``b``, the species of the first
neighbor not after that of the second. The third feature is the distance of the outer atoms, or the
cosine of the angle times ``cosine`` where this is not zero.
"""

import numba
import numpy as np

from kernelpot.common._numba import INLINED, OPTIONS


@numba.njit(**INLINED)
def _step(r, r_cut, width):
    """Return the C2 step that falls from 1 to 0 over the width before the cutoff, and its slope."""
    x = (r_cut - r) / width
    if x >= 1.0:
        return 1.0, 0.0
    if x <= 0.0:
        return 0.0, 0.0
    return (
        x * x * x * (10.0 + x * (6.0 * x - 15.0)),
        -30.0 * x * x * (1.0 - x) * (1.0 - x) / width,
    )


@numba.njit(**OPTIONS)
def find(first_i, start, stop, neighbor_p, distance_p, z_i, r_cut):
    """Return the two pairs of each triplet of the centers of a run."""
    n = 0
    for i in range(start, stop):
        inside = 0
        for p in range(first_i[i], first_i[i + 1]):
            inside += distance_p[p] < r_cut
        n += inside * (inside - 1) // 2
    a_t, b_t = np.empty(n, np.int64), np.empty(n, np.int64)
    t = 0
    for i in range(start, stop):
        for p in range(first_i[i], first_i[i + 1]):
            if distance_p[p] >= r_cut:
                continue
            for q in range(p + 1, first_i[i + 1]):
                if distance_p[q] < r_cut:
                    swap = z_i[neighbor_p[p]] > z_i[neighbor_p[q]]
                    a_t[t], b_t[t] = (q, p) if swap else (p, q)
                    t += 1
    return a_t, b_t


@numba.njit(**OPTIONS)
def features(a_t, b_t, displacement_pc, distance_p, alike_t, r_cut, width, cosine, x_tf, weight_t):
    """Fill features and weights: sum and difference of the two distances, and the third."""
    for t in range(len(a_t)):
        a, b = a_t[t], b_t[t]
        r, s = distance_p[a], distance_p[b]
        square, product = 0.0, 0.0
        for c in range(3):
            d = displacement_pc[b, c] - displacement_pc[a, c]
            square += d * d
            product += displacement_pc[a, c] * displacement_pc[b, c]
        difference = r - s
        x_tf[t, 0] = r + s
        x_tf[t, 1] = difference * difference if alike_t[t] else difference
        x_tf[t, 2] = np.sqrt(square) if cosine == 0.0 else cosine * product / (r * s)
        weight_t[t] = _step(r, r_cut, width)[0] * _step(s, r_cut, width)[0]


@numba.njit(**OPTIONS)
def jacobian(
    a_t, b_t, displacement_pc, distance_p, alike_t, r_cut, width, cosine, by_x_tpcf, by_weight_tpc
):
    """Fill derivatives of features and weights by the displacements of the two pairs."""
    for t in range(len(a_t)):
        a, b = a_t[t], b_t[t]
        r, s = distance_p[a], distance_p[b]
        square, product = 0.0, 0.0
        for c in range(3):
            d = displacement_pc[b, c] - displacement_pc[a, c]
            square += d * d
            product += displacement_pc[a, c] * displacement_pc[b, c]
        third, angle = np.sqrt(square), product / (r * s)
        slope = 2.0 * (r - s) if alike_t[t] else 1.0
        f, by_r = _step(r, r_cut, width)
        g, by_s = _step(s, r_cut, width)
        for c in range(3):
            along_a, along_b = displacement_pc[a, c] / r, displacement_pc[b, c] / s
            across = (displacement_pc[b, c] - displacement_pc[a, c]) / third
            by_x_tpcf[t, 0, c, 0] = along_a
            by_x_tpcf[t, 1, c, 0] = along_b
            by_x_tpcf[t, 0, c, 1] = slope * along_a
            by_x_tpcf[t, 1, c, 1] = -slope * along_b
            if cosine == 0.0:
                by_x_tpcf[t, 0, c, 2] = -across
                by_x_tpcf[t, 1, c, 2] = across
            else:
                by_x_tpcf[t, 0, c, 2] = cosine * (along_b - angle * along_a) / r
                by_x_tpcf[t, 1, c, 2] = cosine * (along_a - angle * along_b) / s
            by_weight_tpc[t, 0, c] = by_r * g * along_a
            by_weight_tpc[t, 1, c] = f * by_s * along_b
