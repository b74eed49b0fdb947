"""Derivatives by features from those along directions, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``m`` scalar, ``e`` environment, ``f``
feature, ``k`` feature that directions have a part of.
"""

import numba
import numpy as np
from numba.extending import overload

from kernelpot.common._numba import INLINED, OPTIONS
from kernelpot.terms._compression_vector import add_rows_times, rows_dot
from kernelpot.terms._soap_vector import LANES


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


def times_map(rows, matrix, out, lanes):
    """Fill ``out = rows @ matrix``; in vector code where ``lanes`` is a tuple."""
    for e in range(rows.shape[0]):
        for d in range(matrix.shape[1]):
            out[e, d] = 0.0
        for k in range(matrix.shape[0]):
            for d in range(matrix.shape[1]):
                out[e, d] += rows[e, k] * matrix[k, d]


@numba.njit(**INLINED)
def _times_map_vector(rows, matrix, out):
    """Eight rows of the matrix at a time with two others: it is read in order."""
    n, n_k, step = rows.shape[0], matrix.shape[0], matrix.shape[1]
    one, two, eight = (0,), (0, 0), (0, 0, 0, 0, 0, 0, 0, 0)
    n_vectors = step // LANES
    main = n_k - n_k % 8
    out[:] = 0.0
    for k in range(0, main, 8):
        for e in range(0, n - 1, 2):
            add_rows_times(
                rows, e * n_k + k, n_k, matrix, k * step, step, n_vectors, out, e * step,
                (two, eight),
            )  # fmt: skip
        if n % 2:
            e = n - 1
            add_rows_times(
                rows, e * n_k + k, n_k, matrix, k * step, step, n_vectors, out, e * step,
                (one, eight),
            )  # fmt: skip
    for k in range(main, n_k):
        for e in range(n):
            add_rows_times(
                rows, e * n_k + k, n_k, matrix, k * step, step, n_vectors, out, e * step, (one, one)
            )


@overload(times_map, inline="always")
def _times_map_overload(rows, matrix, out, lanes):
    if isinstance(lanes, numba.types.BaseTuple):
        return lambda rows, matrix, out, lanes: _times_map_vector(rows, matrix, out)
    return times_map


def map_times(along, matrix, out, lanes):
    """Fill ``out = along @ matrix.T``; in vector code where ``lanes`` is a tuple."""
    for k in range(matrix.shape[0]):
        for e in range(along.shape[0]):
            total = 0.0
            for d in range(matrix.shape[1]):
                total += along[e, d] * matrix[k, d]
            out[e, k] = total


@numba.njit(**INLINED)
def _map_times_vector(along, matrix, out):
    """Four rows of the matrix at a time with some of the others."""
    n, n_k, n_d = along.shape[0], matrix.shape[0], matrix.shape[1]
    one, two, four = (0,), (0, 0), (0, 0, 0, 0)
    n_vectors = n_d // LANES
    main = n_k - n_k % 4
    for k in range(0, main, 4):
        e = 0
        while e < n:
            at, to = e * n_d, e * n_k + k
            if n - e >= 4:
                rows_dot(along, at, matrix, k * n_d, n_d, n_vectors, out, to, n_k, (four, four))
                e += 4
            elif n - e >= 2:
                rows_dot(along, at, matrix, k * n_d, n_d, n_vectors, out, to, n_k, (two, four))
                e += 2
            else:
                rows_dot(along, at, matrix, k * n_d, n_d, n_vectors, out, to, n_k, (one, four))
                e += 1
    for k in range(main, n_k):
        for e in range(n):
            rows_dot(
                along, e * n_d, matrix, k * n_d, n_d, n_vectors, out, e * n_k + k, n_k, (one, one)
            )


@overload(map_times, inline="always")
def _map_times_overload(along, matrix, out, lanes):
    if isinstance(lanes, numba.types.BaseTuple):
        return lambda along, matrix, out, lanes: _map_times_vector(along, matrix, out)
    return map_times


@numba.njit(**OPTIONS)
def quadratic(
    inner_ef,
    row_e,
    column_k,
    map_kd,
    share_d,
    gain,
    form_dd,
    lanes,
    energy_e,
    u_ed,
    by_inner_ef,
):
    """Energies ``u^T B u`` of unit compressed features, and their derivatives by inner ones.

    For the few environments ``row_e`` of one class: what is otherwise a product with the map, what
    lies outside of it, normalization, the form ``form_dd`` in leading features, and all of that
    backwards (`CompressedDescriptor`, `LeadingQuadratic`). The map is read from memory once and is
    still in the cache on the way back; matrix products of a few rows would copy it first.
    ``gain`` is the factor of the squared length in what lies outside. The rows of map and form may
    have zeros at their end, so that vectors are full, where ``lanes`` is a tuple.
    """
    n, n_columns, n_directions = len(row_e), len(column_k), len(share_d)
    n_leading = form_dd.shape[0]
    rows = np.empty((n, n_columns))
    along = np.empty((n, map_kd.shape[1]))
    for e in range(n):
        for k in range(n_columns):
            rows[e, k] = inner_ef[row_e[e], column_k[k]]
    times_map(rows, map_kd, along, lanes)
    leading, half = np.empty((n, n_leading)), np.empty((n, form_dd.shape[1]))
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
    times_map(leading, form_dd, half, lanes)
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
    map_times(along, map_kd, rows, lanes)
    for e in range(n):
        for k in range(n_columns):
            by_inner_ef[row_e[e], column_k[k]] += rows[e, k]
