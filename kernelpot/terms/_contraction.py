"""Compiled loops over contracted densities: features, adjoint and Jacobian.

Arrays in, caller-allocated arrays out; ``contraction.py`` has the checks and the mathematics.
Suffixes as in `_soap`; ``k`` is a contracted channel. The number of contracted channels is that of
the degree with most of them (``size_k``, a tuple of that length as `_soap` has it); of degree l the
first ``counts[l]`` are features, the others zero.
"""

import numba
import numpy as np
from numba.extending import overload

from kernelpot.common._numba import INLINED, OPTIONS
from kernelpot.terms._soap import (
    _hermite,
    _hermite_slope,
    _knot,
    extent,
    fill_gram,
    fill_rows,
    solid_harmonics,
    solid_harmonics_gradient,
)
from kernelpot.terms._soap_members import members_room, pull_members
from kernelpot.terms._soap_vector import squares_of


def squares(rows, r_start, n_q, size):
    """Sum of squares of ``n_q`` rows; in vector code for tuples."""
    r, total = rows.ravel(), 0.0
    for k in range(r_start, r_start + n_q * extent(size)):
        total += r[k] * r[k]
    return total


@overload(squares, inline="always")
def _squares_overload(rows, r_start, n_q, size):
    if isinstance(size, numba.types.BaseTuple):
        return lambda rows, r_start, n_q, size: squares_of(rows, r_start, n_q, size)
    return squares


@numba.njit(**OPTIONS)
def contract(coefficients, key, present, vectors, size, size_k, contracted, kept, whole):
    """Fill ``contracted[i, q, k] = sum_an vectors[key, l, a, n, k] c[a, q, n]`` and traces.

    ``kept[i, l]`` and ``whole[i, l]`` are the sums of squares of degree l after and before.
    Channels that are not ``present`` are known to be zero.
    """
    n_max, n_k = extent(size), extent(size_k)
    n_l, n_q, n_channels = kept.shape[1], contracted.shape[1], coefficients.shape[1]
    contracted.ravel()[:] = 0.0
    for i in range(coefficients.shape[0]):
        for l in range(n_l):
            at, n_m = (i * n_q + l * l) * n_k, 2 * l + 1
            square = 0.0
            for a in present:
                start = ((i * n_channels + a) * n_q + l * l) * n_max
                fill_rows(
                    contracted, at, coefficients, start, n_max, vectors,
                    ((key[i] * n_l + l) * n_channels + a) * n_max * n_k, n_m, size, size_k, 1.0,
                    contracted,
                )  # fmt: skip
                square += squares(coefficients, start, n_m, size)
            kept[i, l] = squares(contracted, at, n_m, size_k)
            whole[i, l] = square


@numba.njit(**OPTIONS)
def power_spectrum(contracted, kept, whole, counts, scale_l, weight_l, floor, size_k, features):
    """Fill ``features[i, f]``: products of contracted channels, and what they leave out."""
    n_k, n_q = extent(size_k), contracted.shape[1]
    root2 = np.sqrt(2.0)
    gram = np.zeros((n_k, n_k))
    for i in range(contracted.shape[0]):
        f = 0
        square = 0.0
        for l in range(counts.shape[0]):
            at = (i * n_q + l * l) * n_k
            fill_gram(contracted, at, at, 2 * l + 1, gram, size_k)
            factor = root2 * scale_l[l]
            for j in range(counts[l]):
                features[i, f] = scale_l[l] * gram[j, j]
                for k in range(j + 1, counts[l]):
                    features[i, f + k - j] = factor * gram[j, k]
                f += counts[l] - j
            square += weight_l[l] * (whole[i, l] ** 2 - (1.0 - floor) * kept[i, l] ** 2)
        features[i, f] = np.sqrt(square)


@numba.njit(**OPTIONS)
def power_spectrum_adjoint(
    coefficients, contracted, kept, whole, rest, key, cotangent, present, vectors_t, counts,
    scale_l, weight_l, floor, size, size_k, adjoint,
):  # fmt: skip
    """Fill ``adjoint = d(cotangent . features)/d coefficients`` (same shape).

    ``vectors_t[key, l, a, k, n]``.
    """
    n_max, n_k = extent(size), extent(size_k)
    n_l, n_q, n_channels = kept.shape[1], contracted.shape[1], coefficients.shape[1]
    root2 = np.sqrt(2.0)
    gram = np.zeros((n_k, n_k))
    moved = np.zeros((2 * n_l - 1) * n_k)
    if present.shape[0] < n_channels:
        adjoint.ravel()[:] = 0.0
    for i in range(coefficients.shape[0]):
        by_square = 2.0 * cotangent[i, -1] / rest[i]
        f = 0
        for l in range(n_l):
            gram[:] = 0.0
            factor = root2 * scale_l[l]
            for j in range(counts[l]):
                gram[j, j] = 2.0 * scale_l[l] * cotangent[i, f]
                for k in range(j + 1, counts[l]):
                    gram[j, k] = factor * cotangent[i, f + k - j]
                f += counts[l] - j
            for j in range(1, counts[l]):
                for k in range(j):
                    gram[j, k] = gram[k, j]
            of_kept = -by_square * weight_l[l] * (1.0 - floor) * kept[i, l]
            of_whole = by_square * weight_l[l] * whole[i, l]
            for j in range(n_k):
                gram[j, j] += of_kept
            n_m = 2 * l + 1
            moved[: n_m * n_k] = 0.0
            fill_rows(
                moved, 0, contracted, (i * n_q + l * l) * n_k, n_k, gram, 0, n_m, size_k, size_k,
                1.0, moved,
            )  # fmt: skip
            for a in present:
                fill_rows(
                    adjoint, ((i * n_channels + a) * n_q + l * l) * n_max, moved, 0, n_k, vectors_t,
                    ((key[i] * n_l + l) * n_channels + a) * n_max * n_k, n_m, size_k, size,
                    of_whole, coefficients,
                )  # fmt: skip


@numba.njit(**INLINED)
def _rest_slope(c, contracted, kept, whole, rest, present, vectors, weight_l, floor, slope):
    """Fill ``slope[a, q, n] = d rest / d c``, in double precision: large parts cancel in it."""
    n_max, n_k = vectors.shape[2], vectors.shape[3]
    for l in range(kept.shape[0]):
        of_whole = 2.0 * weight_l[l] * whole[l] / rest
        of_kept = 2.0 * weight_l[l] * (1.0 - floor) * kept[l] / rest
        for a in present:
            for q in range(l * l, (l + 1) * (l + 1)):
                for n in range(n_max):
                    back = 0.0
                    for k in range(n_k):
                        back += vectors[l, a, n, k] * contracted[q, k]
                    slope[a, q, n] = of_whole * c[a, q, n] - of_kept * back


@numba.njit(**INLINED)
def _members_adjoint(
    contracted, rest_slope, cotangent_fm, present, vectors, counts, scale_l, gram, product, adjoint
):
    """Fill ``adjoint[a, q, n, m]`` of one center for ``present`` channels, in single precision.

    ``vectors[l, a, n, k]`` are those of its class.
    """
    n_k, n_members = gram.shape[0], gram.shape[2]
    n_max, last = rest_slope.shape[2], cotangent_fm.shape[0] - 1
    f = 0
    for l in range(counts.shape[0]):
        gram[:] = 0.0
        for j in range(counts[l]):
            for k in range(j, counts[l]):
                factor = np.float32(2.0 * scale_l[l] if j == k else np.sqrt(2.0) * scale_l[l])
                for m in range(n_members):
                    gram[j, k, m] = factor * cotangent_fm[f, m]
                for m in range(n_members):
                    gram[k, j, m] = gram[j, k, m]
                f += 1
        first, n_m = l * l, 2 * l + 1
        rows = product[:n_m]
        np.dot(contracted[first : first + n_m], gram.reshape(n_k, n_k * n_members), rows)
        for a in present:
            for q in range(n_m):
                for n in range(n_max):
                    factor = rest_slope[a, first + q, n]
                    for m in range(n_members):
                        adjoint[a, first + q, n, m] = factor * cotangent_fm[last, m]
                    for k in range(counts[l]):
                        factor = vectors[l, a, n, k]
                        for m in range(n_members):
                            adjoint[a, first + q, n, m] += factor * rows[q, k * n_members + m]


@numba.njit(**OPTIONS)
def members_gradients_vector(
    first, displacement_pc, channel_p, weight_p, start, stop, r_cut, table, size, degrees,
    coefficients, contracted, kept, whole, rest, key, cotangent_ifm, present, vectors,
    single_vectors, counts, scale_l, weight_l, floor, size_k, gradient_pcm,
):  # fmt: skip
    """Add the gradients of several scalars (``m``): as `_soap_members.members_gradients_vector`."""
    n_max, n_k = len(size), len(size_k)
    n_l, n_q = kept.shape[1], contracted.shape[1]
    n_channels, n_members = coefficients.shape[1], cotangent_ifm.shape[2]
    slope = np.zeros((n_channels, n_q, n_max))
    single_slope = np.empty((n_channels, n_q, n_max), dtype=np.float32)
    single_k = np.empty((n_q, n_k), dtype=np.float32)
    gram = np.empty((n_k, n_k, n_members), dtype=np.float32)
    of_degree = np.empty((2 * n_l - 1, n_k * n_members), dtype=np.float32)
    adjoint = np.zeros((n_channels, n_q, n_max, n_members), dtype=np.float32)
    room = members_room(n_max, n_q, n_members)
    for i in range(start, stop):
        row = i - start
        _rest_slope(
            coefficients[row], contracted[row], kept[row], whole[row], rest[row], present,
            vectors[key[row]], weight_l, floor, slope,
        )  # fmt: skip
        single_slope[:] = slope
        single_k[:] = contracted[row]
        _members_adjoint(
            single_k, single_slope, cotangent_ifm[row], present, single_vectors[key[row]], counts,
            scale_l, gram, of_degree, adjoint,
        )  # fmt: skip
        pull_members(
            first[i], first[i + 1], displacement_pc, channel_p, weight_p, r_cut, table, size,
            degrees, adjoint, *room, gradient_pcm,
        )  # fmt: skip


@numba.njit(**OPTIONS)
def jacobian(
    pairs, center_p, displacement_pc, channel_p, weight_p, r_cut, table, size, l_max,
    prefactor_q, coefficients, contracted, kept, whole, rest, key, vectors, counts, scale_l,
    weight_l, floor, size_k, jacobian_pcf,
):  # fmt: skip
    """Fill ``jacobian_pcf[a, c, f] = d features / d displacement`` of ``pairs[a]``.

    As `_soap.jacobian`: radial functions are contracted to those of the pair's channel, so that
    the derivative of each degree is of rank two in (harmonic, direction) against channels.
    """
    n_max, n_k = extent(size), extent(size_k)
    root2 = np.sqrt(2.0)
    n_knots = table.shape[0]
    per_length = (n_knots - 1) / r_cut
    n_q = (l_max + 1) ** 2
    legendre = np.zeros(n_q)
    azimuth = np.zeros((2, l_max + 1))
    y_q = np.zeros(n_q)
    grad_cq = np.zeros((3, n_q))
    radial = np.zeros(n_max)
    d_radial = np.zeros(n_max)
    radial_k = np.zeros(n_k)
    d_radial_k = np.zeros(n_k)
    u_n = np.zeros(n_max)
    v_cn = np.zeros((3, n_max))
    u_k = np.zeros(n_k)
    v_ck = np.zeros((3, n_k))
    unit = np.zeros(3)
    by_rest = np.zeros(3)
    for a in range(pairs.shape[0]):
        p = pairs[a]
        out = jacobian_pcf[a]
        out[:] = 0.0
        x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
        r = np.sqrt(x * x + y * y + z * z)
        if r >= r_cut:
            continue
        unit[0], unit[1], unit[2] = x / r, y / r, z / r
        knot, t = _knot(r, per_length, n_knots)
        value0, slope0, value1, slope1 = _hermite(t)
        d_value, d_slope0, _, d_slope1 = _hermite_slope(t, per_length)
        weight = weight_p[p]
        solid_harmonics(x, y, z, l_max, prefactor_q, legendre, azimuth, y_q)
        solid_harmonics_gradient(x, y, l_max, prefactor_q, legendre, azimuth, grad_cq)
        channel = channel_p[p]
        i = center_p[a]
        c = coefficients[i, channel]
        by_rest[:] = 0.0
        f = 0
        for l in range(l_max + 1):
            radial_k[:] = 0.0
            d_radial_k[:] = 0.0
            u_n[:] = 0.0
            v_cn[:] = 0.0
            u_k[:] = 0.0
            v_ck[:] = 0.0
            for n in range(n_max):
                f0, g0 = table[knot, 0, l, n], table[knot, 1, l, n]
                f1, g1 = table[knot + 1, 0, l, n], table[knot + 1, 1, l, n]
                radial[n] = weight * (value0 * f0 + slope0 * g0 + value1 * f1 + slope1 * g1)
                d_radial[n] = weight * (d_value * (f0 - f1) + d_slope0 * g0 + d_slope1 * g1)
                for k in range(n_k):
                    factor = vectors[key[i], l, channel, n, k]
                    radial_k[k] += radial[n] * factor
                    d_radial_k[k] += d_radial[n] * factor
            for q in range(l * l, (l + 1) * (l + 1)):
                y_value = y_q[q]
                gx, gy, gz = grad_cq[0, q], grad_cq[1, q], grad_cq[2, q]
                for n in range(n_max):
                    value = c[q, n]
                    u_n[n] += y_value * value
                    v_cn[0, n] += gx * value
                    v_cn[1, n] += gy * value
                    v_cn[2, n] += gz * value
                for k in range(n_k):
                    value = contracted[i, q, k]
                    u_k[k] += y_value * value
                    v_ck[0, k] += gx * value
                    v_ck[1, k] += gy * value
                    v_ck[2, k] += gz * value
            of_whole = weight_l[l] * whole[i, l]
            of_kept = weight_l[l] * (1.0 - floor) * kept[i, l]
            start = f
            for direction in range(3):
                f = start
                for n in range(n_max):
                    moved = d_radial[n] * unit[direction] * u_n[n] + radial[n] * v_cn[direction, n]
                    by_rest[direction] += of_whole * moved
                for k in range(n_k):
                    moved = (
                        d_radial_k[k] * unit[direction] * u_k[k] + radial_k[k] * v_ck[direction, k]
                    )
                    by_rest[direction] -= of_kept * moved
                for j in range(counts[l]):
                    left, right = d_radial_k[j] * unit[direction], radial_k[j]
                    out[direction, f] = (
                        2.0 * scale_l[l] * (left * u_k[j] + right * v_ck[direction, j])
                    )
                    f += 1
                    for k in range(j + 1, counts[l]):
                        out[direction, f] = (
                            root2
                            * scale_l[l]
                            * (
                                left * u_k[k]
                                + right * v_ck[direction, k]
                                + d_radial_k[k] * unit[direction] * u_k[j]
                                + radial_k[k] * v_ck[direction, j]
                            )
                        )
                        f += 1
        for direction in range(3):
            out[direction, f] = 2.0 * by_rest[direction] / rest[i]
