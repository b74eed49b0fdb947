"""Derivatives by features from those along directions, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``m`` scalar, ``e`` environment, ``f``
feature, ``k`` feature that directions have a part of.
"""

import numba
import numpy as np

from kernelpot.common._numba import INLINED, OPTIONS


@numba.njit(**OPTIONS)
def scatter(along_ek, factor_e, x_ef, row_e, column_k, out_ef):
    """Fill ``out_ef[row_e[e]]``: ``factor_e x``, and at ``column_k`` also ``along_ek``."""
    n_columns = column_k.shape[0]
    all_columns = n_columns == x_ef.shape[1]
    for e in range(row_e.shape[0]):
        row = row_e[e]
        factor = factor_e[e]
        if all_columns:
            for f in range(n_columns):
                out_ef[row, f] = factor * x_ef[row, f] + along_ek[e, f]
        else:
            for f in range(x_ef.shape[1]):
                out_ef[row, f] = factor * x_ef[row, f]
            for k in range(n_columns):
                out_ef[row, column_k[k]] += along_ek[e, k]


@numba.njit(**OPTIONS)
def scatter_members(along_ekm, factor_em, x_ef, row_e, column_k, out_efm):
    """`scatter` of several scalars, in single precision."""
    n_members = factor_em.shape[1]
    for e in range(row_e.shape[0]):
        row = row_e[e]
        for f in range(x_ef.shape[1]):
            x = np.float32(x_ef[row, f])
            for m in range(n_members):
                out_efm[row, f, m] = x * factor_em[e, m]
        for k in range(column_k.shape[0]):
            f = column_k[k]
            for m in range(n_members):
                out_efm[row, f, m] += along_ekm[e, k, m]


@numba.njit(**INLINED)
def _times_map(rows_ek, map_kd, out_ed):
    """Add ``rows @ map``, two rows and eight features at a time: the map is what is read most."""
    n, n_columns, n_directions = rows_ek.shape[0], map_kd.shape[0], map_kd.shape[1]
    main = n_columns - n_columns % 8
    for k in range(0, main, 8):
        for e in range(0, n - 1, 2):
            x0, x1, x2, x3 = rows_ek[e, k], rows_ek[e, k + 1], rows_ek[e, k + 2], rows_ek[e, k + 3]
            x4, x5 = rows_ek[e, k + 4], rows_ek[e, k + 5]
            x6, x7 = rows_ek[e, k + 6], rows_ek[e, k + 7]
            y0, y1 = rows_ek[e + 1, k], rows_ek[e + 1, k + 1]
            y2, y3 = rows_ek[e + 1, k + 2], rows_ek[e + 1, k + 3]
            y4, y5 = rows_ek[e + 1, k + 4], rows_ek[e + 1, k + 5]
            y6, y7 = rows_ek[e + 1, k + 6], rows_ek[e + 1, k + 7]
            for d in range(n_directions):
                v0, v1, v2, v3 = map_kd[k, d], map_kd[k + 1, d], map_kd[k + 2, d], map_kd[k + 3, d]
                v4, v5 = map_kd[k + 4, d], map_kd[k + 5, d]
                v6, v7 = map_kd[k + 6, d], map_kd[k + 7, d]
                out_ed[e, d] += (
                    x0 * v0 + x1 * v1 + x2 * v2 + x3 * v3 + x4 * v4 + x5 * v5 + x6 * v6 + x7 * v7
                )
                out_ed[e + 1, d] += (
                    y0 * v0 + y1 * v1 + y2 * v2 + y3 * v3 + y4 * v4 + y5 * v5 + y6 * v6 + y7 * v7
                )
        if n % 2:
            e = n - 1
            x0, x1, x2, x3 = rows_ek[e, k], rows_ek[e, k + 1], rows_ek[e, k + 2], rows_ek[e, k + 3]
            x4, x5 = rows_ek[e, k + 4], rows_ek[e, k + 5]
            x6, x7 = rows_ek[e, k + 6], rows_ek[e, k + 7]
            for d in range(n_directions):
                out_ed[e, d] += (
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
                out_ed[e, d] += rows_ek[e, k] * map_kd[k, d]


@numba.njit(**INLINED)
def _map_times(along_ed, map_kd, out_ek):
    """Fill with ``along @ map.T``, two rows and four features at a time."""
    n, n_columns, n_directions = along_ed.shape[0], map_kd.shape[0], map_kd.shape[1]
    main = n_columns - n_columns % 4
    for k in range(0, main, 4):
        for e in range(0, n - 1, 2):
            s0 = s1 = s2 = s3 = 0.0
            t0 = t1 = t2 = t3 = 0.0
            for d in range(n_directions):
                x, y = along_ed[e, d], along_ed[e + 1, d]
                v0, v1, v2, v3 = map_kd[k, d], map_kd[k + 1, d], map_kd[k + 2, d], map_kd[k + 3, d]
                s0 += x * v0
                s1 += x * v1
                s2 += x * v2
                s3 += x * v3
                t0 += y * v0
                t1 += y * v1
                t2 += y * v2
                t3 += y * v3
            out_ek[e, k], out_ek[e, k + 1], out_ek[e, k + 2], out_ek[e, k + 3] = s0, s1, s2, s3
            e += 1
            out_ek[e, k], out_ek[e, k + 1], out_ek[e, k + 2], out_ek[e, k + 3] = t0, t1, t2, t3
        if n % 2:
            e = n - 1
            s0 = s1 = s2 = s3 = 0.0
            for d in range(n_directions):
                x = along_ed[e, d]
                s0 += x * map_kd[k, d]
                s1 += x * map_kd[k + 1, d]
                s2 += x * map_kd[k + 2, d]
                s3 += x * map_kd[k + 3, d]
            out_ek[e, k], out_ek[e, k + 1], out_ek[e, k + 2], out_ek[e, k + 3] = s0, s1, s2, s3
    for k in range(main, n_columns):
        for e in range(n):
            total = 0.0
            for d in range(n_directions):
                total += along_ed[e, d] * map_kd[k, d]
            out_ek[e, k] = total


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
    _times_map(rows, map_kd, along)
    leading, half = np.empty((n, n_leading)), np.zeros((n, n_leading))
    length, rest = np.empty(n), np.empty(n)
    for e in range(n):
        i = row_e[e]
        squares = 0.0
        for f in range(inner_ef.shape[1]):
            squares += inner_ef[i, f] * inner_ef[i, f]
        left, total = gain * squares, 0.0
        for d in range(n_directions):
            square = along[e, d] * along[e, d]
            left -= share_d[d] * square
            total += square
        length[e], rest[e] = np.sqrt(total + left), np.sqrt(left)
        for d in range(n_directions):
            u_ed[i, d] = along[e, d] / length[e]
        u_ed[i, n_directions] = rest[e] / length[e]
        for d in range(n_leading):
            leading[e, d] = u_ed[i, d]
    _times_map(leading, form_dd, half)
    for e in range(n):
        i = row_e[e]
        energy = 0.0
        for d in range(n_leading):
            energy += half[e, d] * leading[e, d]
        energy_e[i] = energy
        # by unit features 2 B u; without the part along u, over the length, by features
        by_left = -2.0 * energy * u_ed[i, n_directions] / (length[e] * rest[e])
        for d in range(n_directions):
            slope = -2.0 * energy * u_ed[i, d]
            if d < n_leading:
                slope += 2.0 * half[e, d]
            along[e, d] = slope / length[e] - by_left * share_d[d] * along[e, d]
        for f in range(inner_ef.shape[1]):
            by_inner_ef[i, f] = gain * by_left * inner_ef[i, f]
    _map_times(along, map_kd, rows)
    for e in range(n):
        for k in range(n_columns):
            by_inner_ef[row_e[e], column_k[k]] += rows[e, k]
