"""Derivatives by features from those along directions, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``m`` scalar, ``e`` environment, ``f``
feature, ``k`` feature that directions have a part of.
"""

import numba
import numpy as np

from kernelpot.common._numba import OPTIONS


@numba.njit(**OPTIONS)
def scatter(along_mek, factor_me, x_ef, row_e, column_k, out_mef):
    """Fill ``out_mef[m, row_e[e]]``: ``factor_me x``, and at ``column_k`` also ``along_mek``."""
    n_columns = column_k.shape[0]
    all_columns = n_columns == x_ef.shape[1]
    for m in range(along_mek.shape[0]):
        for e in range(row_e.shape[0]):
            row = row_e[e]
            factor = factor_me[m, e]
            if all_columns:
                for f in range(n_columns):
                    out_mef[m, row, f] = factor * x_ef[row, f] + along_mek[m, e, f]
            else:
                for f in range(x_ef.shape[1]):
                    out_mef[m, row, f] = factor * x_ef[row, f]
                for k in range(n_columns):
                    out_mef[m, row, column_k[k]] += along_mek[m, e, k]


@numba.njit(**OPTIONS)
def quadratic(
    inner_ef,
    row_e,
    column_k,
    map_kd,
    share_d,
    gain,
    form_dd,
    energy_e,
    u_ed,
    by_inner_ef,
):
    """Energies ``u^T B u`` of unit compressed features, and their derivatives by inner ones.

    For the few environments ``row_e`` of one class: what is otherwise a product with the map, what
    lies outside of it, normalization, the form ``form_dd`` in leading features, and all of that
    backwards (`CompressedDescriptor`, `LeadingQuadratic`). The map is read from memory once and is
    still in the cache on the way back; matrix products of a few rows would copy it first.
    ``gain`` is the factor of the squared length in what lies outside.
    """
    n, n_columns, n_directions = len(row_e), len(column_k), map_kd.shape[1]
    n_leading = form_dd.shape[0]
    rows = np.empty((n, n_columns))
    along = np.zeros((n, n_directions))
    for e in range(n):
        for k in range(n_columns):
            rows[e, k] = inner_ef[row_e[e], column_k[k]]
    main = n_columns - n_columns % 8
    for k in range(0, main, 8):
        for e in range(n):
            x0, x1, x2, x3 = rows[e, k], rows[e, k + 1], rows[e, k + 2], rows[e, k + 3]
            x4, x5, x6, x7 = rows[e, k + 4], rows[e, k + 5], rows[e, k + 6], rows[e, k + 7]
            for d in range(n_directions):
                along[e, d] += (
                    x0 * map_kd[k, d]
                    + x1 * map_kd[k + 1, d]
                    + x2 * map_kd[k + 2, d]
                    + x3 * map_kd[k + 3, d]
                    + x4 * map_kd[k + 4, d]
                    + x5 * map_kd[k + 5, d]
                    + x6 * map_kd[k + 6, d]
                    + x7 * map_kd[k + 7, d]
                )
    for k in range(main, n_columns):
        for e in range(n):
            for d in range(n_directions):
                along[e, d] += rows[e, k] * map_kd[k, d]
    half = np.empty(n_leading)
    for e in range(n):
        i = row_e[e]
        squares = 0.0
        for f in range(inner_ef.shape[1]):
            squares += inner_ef[i, f] * inner_ef[i, f]
        left, length = gain * squares, 0.0
        for d in range(n_directions):
            square = along[e, d] * along[e, d]
            left -= share_d[d] * square
            length += square
        norm = np.sqrt(length + left)
        rest = np.sqrt(left)
        for d in range(n_directions):
            u_ed[i, d] = along[e, d] / norm
        u_ed[i, n_directions] = rest / norm
        half[:] = 0.0
        for a in range(n_leading):
            u_a = u_ed[i, a]
            for b in range(n_leading):
                half[b] += u_a * form_dd[a, b]
        energy = 0.0
        for b in range(n_leading):
            energy += half[b] * u_ed[i, b]
        energy_e[i] = energy
        # by unit features 2 B u; without the part along u, over the length, by features
        by_left = -2.0 * energy * u_ed[i, n_directions]
        if n_leading > n_directions:
            by_left += 2.0 * half[n_directions]
        by_left /= norm * rest
        for d in range(n_directions):
            slope = -2.0 * energy * u_ed[i, d]
            if d < n_leading:
                slope += 2.0 * half[d]
            along[e, d] = slope / norm - by_left * share_d[d] * along[e, d]
        for f in range(inner_ef.shape[1]):
            by_inner_ef[i, f] = gain * by_left * inner_ef[i, f]
    main = n_columns - n_columns % 4
    for k in range(0, main, 4):
        for e in range(n):
            s0 = s1 = s2 = s3 = 0.0
            for d in range(n_directions):
                slope = along[e, d]
                s0 += slope * map_kd[k, d]
                s1 += slope * map_kd[k + 1, d]
                s2 += slope * map_kd[k + 2, d]
                s3 += slope * map_kd[k + 3, d]
            i = row_e[e]
            by_inner_ef[i, column_k[k]] += s0
            by_inner_ef[i, column_k[k + 1]] += s1
            by_inner_ef[i, column_k[k + 2]] += s2
            by_inner_ef[i, column_k[k + 3]] += s3
    for k in range(main, n_columns):
        for e in range(n):
            s0 = 0.0
            for d in range(n_directions):
                s0 += along[e, d] * map_kd[k, d]
            by_inner_ef[row_e[e], column_k[k]] += s0
