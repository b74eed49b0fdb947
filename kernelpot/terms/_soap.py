"""Compiled SOAP loops: expansion, power spectrum, adjoint and Jacobian.

Arrays in, caller-allocated arrays out; no checks (``power_spectrum.py`` has them).
Suffixes name the dimensions: ``p`` pair, ``c`` Cartesian, ``f`` feature, ``n``
radial function, ``q`` the combined index ``l * l + l + m``.

The density of atoms of one channel (a species, or all of them for ``mu2``) around
a center is expanded as ``c_qn = sum_p w_p Y_q(r_p) R_ln(|r_p|)`` with real solid
harmonics ``Y_q`` (degree ``l`` homogeneous) and a tabulated radial function, and
``p = scale_l sum_m c_qn c_qn'`` is the power spectrum.

The number of radial functions is passed as an integer (any size, one compilation)
or as a tuple of that length: its length is then a compile-time constant and the
innermost loops are unrolled for this size. The two loops over pairs that matter most,
`expand` and `pair_gradients`, exist a second time in vector code for such fixed sizes
(`expand_vector`, `pair_gradients_vector`); the plain ones are what these must equal.
"""

import numba
import numpy as np
from numba.extending import overload

from kernelpot.common._numba import INLINED, OPTIONS
from kernelpot.terms._soap_vector import (
    LANES,
    gather_lanes,
    gather_pair,
    gram_of,
    harmonics,
    harmonics_adjoint,
    products,
    radial_lanes,
    scatter_lanes,
    scatter_pairs,
)

# Pairs of one channel from which on it pays to treat as many as LANES together.
FEW = 4


def extent(size):
    """Return the integer that ``size`` (an int, or a tuple of that length) means."""
    return len(size) if isinstance(size, tuple) else size


@overload(extent, inline="always")
def _extent_overload(size):
    if isinstance(size, numba.types.BaseTuple):
        return lambda size: len(size)
    return lambda size: size


def fill_rows(
    out, o_start, factors, f_start, f_step, rows, r_start, n_q, count, size, scale, other
):
    """Fill ``out[q] = sum_c factors[q, c] rows[c] + scale other[q]``; vector code for tuples."""
    o, f, r, added = out.ravel(), factors.ravel(), rows.ravel(), other.ravel()
    n_rows, n = extent(count), extent(size)
    for at in range(o_start, o_start + n_q * n):
        o[at] = scale * added[at]
    for q in range(n_q):
        for c in range(n_rows):
            for k in range(n):
                o[o_start + q * n + k] += f[f_start + q * f_step + c] * r[r_start + c * n + k]


@overload(fill_rows, inline="always")
def _fill_rows_overload(
    out, o_start, factors, f_start, f_step, rows, r_start, n_q, count, size, scale, other
):
    if not isinstance(size, numba.types.BaseTuple):
        return fill_rows

    def in_vectors(
        out, o_start, factors, f_start, f_step, rows, r_start, n_q, count, size, scale, other
    ):
        products(
            out, o_start, factors, f_start, f_step, rows, r_start, n_q, count, size, scale, other
        )

    return in_vectors


def fill_gram(rows, a_start, b_start, n_q, out, size):
    """Fill ``out[j, k] = sum_q a[q, j] b[q, k]`` with rows a and b; in vector code for tuples."""
    r, n = rows.ravel(), extent(size)
    out[:] = 0.0
    for q in range(n_q):
        for j in range(n):
            left = r[a_start + q * n + j]
            for k in range(n):
                out[j, k] += left * r[b_start + q * n + k]


@overload(fill_gram, inline="always")
def _fill_gram_overload(rows, a_start, b_start, n_q, out, size):
    if not isinstance(size, numba.types.BaseTuple):
        return fill_gram

    def in_vectors(rows, a_start, b_start, n_q, out, size):
        gram_of(rows, a_start, b_start, n_q, out, size)

    return in_vectors


@numba.njit(**INLINED)
def solid_harmonics(x, y, z, l_max, prefactor_q, legendre, azimuth, values_q):
    """Real solid harmonics ``r^l Y_lm`` by the recursions of [1]_, section 2.

    ``legendre`` ((l_max + 1)^2 scratch) receives the modified associated Legendre
    polynomials Q_l^m at ``l * (l_max + 1) + m``; ``azimuth`` (2, l_max + 1) the
    real and imaginary parts of ``(x + i y)^m``.

    .. [1] Bigi, Fraux, Browning, Ceriotti, J. Chem. Phys. 159, 064802 (2023).
    """
    r2 = x * x + y * y + z * z
    width = l_max + 1
    azimuth[0, 0] = 1.0
    azimuth[1, 0] = 0.0
    legendre[0] = 1.0
    for m in range(1, l_max + 1):
        azimuth[0, m] = x * azimuth[0, m - 1] - y * azimuth[1, m - 1]
        azimuth[1, m] = x * azimuth[1, m - 1] + y * azimuth[0, m - 1]
        legendre[m * width + m] = (2 * m - 1) * legendre[(m - 1) * width + m - 1]
    for m in range(l_max):
        legendre[(m + 1) * width + m] = (2 * m + 1) * z * legendre[m * width + m]
    for l in range(2, l_max + 1):
        for m in range(l - 1):
            legendre[l * width + m] = (
                (2 * l - 1) * z * legendre[(l - 1) * width + m]
                - (l + m - 1) * r2 * legendre[(l - 2) * width + m]
            ) / (l - m)
    for l in range(l_max + 1):
        center = l * l + l
        values_q[center] = prefactor_q[center] * legendre[l * width]
        for m in range(1, l + 1):
            q = prefactor_q[center + m] * legendre[l * width + m]
            values_q[center + m] = q * azimuth[0, m]
            values_q[center - m] = q * azimuth[1, m]


@numba.njit(**INLINED)
def solid_harmonics_gradient(x, y, l_max, prefactor_q, legendre, azimuth, grad_cq):
    """Cartesian gradients from the scratch that `solid_harmonics` left behind."""
    width = l_max + 1
    for l in range(l_max + 1):
        center = l * l + l
        for m in range(l + 1):
            pre = prefactor_q[center + m]
            value = pre * legendre[l * width + m]
            # dQ_l^m/dx = -x Q_{l-1}^{m+1}, dQ_l^m/dz = (l + m) Q_{l-1}^m
            transverse = 0.0
            along = 0.0
            if m + 1 <= l - 1:
                transverse = -pre * legendre[(l - 1) * width + m + 1]
            if m <= l - 1:
                along = pre * (l + m) * legendre[(l - 1) * width + m]
            cos, sin = azimuth[0, m], azimuth[1, m]
            grad_cq[0, center + m] = x * transverse * cos
            grad_cq[1, center + m] = y * transverse * cos
            grad_cq[2, center + m] = along * cos
            if m > 0:
                cos1, sin1 = m * azimuth[0, m - 1], m * azimuth[1, m - 1]
                grad_cq[0, center + m] += value * cos1
                grad_cq[1, center + m] -= value * sin1
                grad_cq[0, center - m] = x * transverse * sin + value * sin1
                grad_cq[1, center - m] = y * transverse * sin + value * cos1
                grad_cq[2, center - m] = along * sin


@numba.njit(**INLINED)
def _knot(r, per_length, n_knots):
    """Table interval that holds the distance ``r``, and the position in it (0 to 1)."""
    position = r * per_length
    k = min(int(position), n_knots - 2)
    return k, position - k


@numba.njit(**INLINED)
def _hermite(t):
    """Cubic Hermite weights of value and slope at this knot, value and slope at the next."""
    return (
        (2.0 * t - 3.0) * t * t + 1.0,
        ((t - 2.0) * t + 1.0) * t,
        (3.0 - 2.0 * t) * t * t,
        (t - 1.0) * t * t,
    )


@numba.njit(**INLINED)
def _hermite_slope(t, per_length):
    """Derivatives of `_hermite` with respect to the distance."""
    d_value = 6.0 * t * (t - 1.0) * per_length
    return (
        d_value,
        ((3.0 * t - 4.0) * t + 1.0) * per_length,
        -d_value,
        (3.0 * t - 2.0) * t * per_length,
    )


@numba.njit(**INLINED)
def _weights(r, weight, per_length, n_knots):
    """Table interval of a distance, and the Hermite weights there, times a weight."""
    k, t = _knot(r, per_length, n_knots)
    value0, slope0, value1, slope1 = _hermite(t)
    return k, (weight * value0, weight * slope0, weight * value1, weight * slope1)


@numba.njit(**INLINED)
def _aligned(n):
    """An array of n zeros that begins where a cache line does."""
    room = np.zeros(n + LANES)
    skipped = (-room.ctypes.data % (8 * LANES)) // 8
    return room[skipped : skipped + n]


@numba.njit(**INLINED)
def _longest(first, start, stop):
    """Most pairs that one of some centers has."""
    longest = 0
    for i in range(start, stop):
        longest = max(longest, first[i + 1] - first[i])
    return longest


@numba.njit(**INLINED)
def _room(longest, n_channels):
    """Arrays that `_group` works in."""
    return (
        np.empty(longest + 1, dtype=np.int64),
        np.empty(longest + 1),
        np.zeros((3, n_channels), dtype=np.int64),
        np.empty(longest, dtype=np.int64),
        np.empty(longest),
        np.empty(longest // LANES + n_channels + 1, dtype=np.int64),
    )


@numba.njit(**INLINED)
def _group(
    start, stop, displacement_pc, channel_p, r_cut, near, length, places, pair, distance, bounds
):
    """Sort the pairs of a center within the cutoff by channel, some together.

    Fills ``pair`` and ``distance``: first groups of up to LANES pairs of one channel, group ``g``
    from ``bounds[g]`` to ``bounds[g + 1]``, then those that are too few for a group, by channel.

    Returns
    -------
    n_groups, n_near : int
        Number of groups, and of pairs within the cutoff.
    """
    grouped, last, rest = places
    n_channels = last.shape[0]
    n_near = 0
    for p in range(start, stop):
        x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
        r = np.sqrt(x * x + y * y + z * z)
        near[n_near], length[n_near] = p, r  # no branch: it could not be foreseen
        n_near += r < r_cut
    rest[:] = 0
    for k in range(n_near):
        rest[channel_p[near[k]]] += 1
    n_groups, filled = 0, 0
    bounds[0] = 0
    for channel in range(n_channels):
        n = rest[channel]
        if n % LANES < FEW:
            n -= n % LANES
        rest[channel] -= n
        grouped[channel], last[channel] = filled, filled + n
        while filled < last[channel]:
            filled = min(filled + LANES, last[channel])
            n_groups += 1
            bounds[n_groups] = filled
    for channel in range(n_channels):
        rest[channel], filled = filled, filled + rest[channel]
    for k in range(n_near):
        channel = channel_p[near[k]]
        kind = grouped if grouped[channel] < last[channel] else rest
        pair[kind[channel]], distance[kind[channel]] = near[k], length[k]
        kind[channel] += 1
    return n_groups, n_near


@numba.njit(**INLINED)
def _take(begin, end, pair, displacement_pc, xyz):
    """Collect the displacements of up to LANES pairs."""
    for k in range(begin, end):
        for c in range(3):
            xyz[c, k - begin] = displacement_pc[pair[k], c]


@numba.njit(**OPTIONS)
def expand(
    first,
    displacement_pc,
    channel_p,
    weight_p,
    start,
    stop,
    center_channel,
    center_n,
    sum_channel,
    r_cut,
    table,
    size,
    l_max,
    prefactor_q,
    coefficients,
):
    """Fill ``coefficients[i - start, channel, q, n]`` for centers start..stop.

    ``table[k, 0, l, n]`` and ``table[k, 1, l, n]`` hold the radial function and its
    derivative times the knot spacing; between knots it is a cubic Hermite polynomial.
    ``center_n[i]`` is the l = 0 contribution of the central atom itself. With
    ``sum_channel >= 0`` that channel receives the sum of all others.
    """
    n_max = extent(size)
    n_knots = table.shape[0]
    per_length = (n_knots - 1) / r_cut
    n_q = (l_max + 1) ** 2
    legendre = np.zeros(n_q)
    azimuth = np.zeros((2, l_max + 1))
    y_q = np.zeros(n_q)
    radial = np.zeros(n_max)
    coefficients[:] = 0.0
    for i in range(start, stop):
        c = coefficients[i - start]
        for n in range(n_max):
            c[center_channel[i], 0, n] = center_n[i, n]
        for p in range(first[i], first[i + 1]):
            x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
            r = np.sqrt(x * x + y * y + z * z)
            if r >= r_cut:
                continue
            k, t = _knot(r, per_length, n_knots)
            value0, slope0, value1, slope1 = _hermite(t)
            weight = weight_p[p]
            solid_harmonics(x, y, z, l_max, prefactor_q, legendre, azimuth, y_q)
            c_z = c[channel_p[p]]
            for l in range(l_max + 1):
                for n in range(n_max):
                    radial[n] = weight * (
                        value0 * table[k, 0, l, n]
                        + slope0 * table[k, 1, l, n]
                        + value1 * table[k + 1, 0, l, n]
                        + slope1 * table[k + 1, 1, l, n]
                    )
                for q in range(l * l, (l + 1) * (l + 1)):
                    y_value = y_q[q]
                    for n in range(n_max):
                        c_z[q, n] += y_value * radial[n]
        if sum_channel >= 0:
            for channel in range(sum_channel):
                for q in range(n_q):
                    for n in range(n_max):
                        c[sum_channel, q, n] += c[channel, q, n]


@numba.njit(**OPTIONS)
def expand_vector(
    first,
    displacement_pc,
    channel_p,
    weight_p,
    start,
    stop,
    center_channel,
    center_n,
    sum_channel,
    r_cut,
    table,
    size,
    degrees,
    coefficients,
):
    """`expand` in vector code; ``size`` and ``degrees`` are tuples of n_max and l_max + 1."""
    n_max, n_l = len(size), len(degrees)
    n_q = n_l * n_l
    n_knots = table.shape[0]
    per_length = (n_knots - 1) / r_cut
    n_channels = coefficients.shape[1]
    xyz = np.zeros((3, LANES))
    values = _aligned(n_q * LANES)
    knots = np.zeros(LANES, dtype=np.int64)
    hermite = np.zeros((4, LANES))
    near, length, places, pair, distance, bounds = _room(_longest(first, start, stop), n_channels)
    for i in range(start, stop):
        c = coefficients[i - start]
        c[:] = 0.0
        for n in range(n_max):
            c[center_channel[i], 0, n] = center_n[i, n]
        n_groups, n_near = _group(
            first[i], first[i + 1], displacement_pc, channel_p, r_cut, near, length, places, pair,
            distance, bounds,
        )  # fmt: skip
        for group in range(n_groups):
            begin, end = bounds[group], bounds[group + 1]
            _take(begin, end, pair, displacement_pc, xyz)
            harmonics(xyz, values, None, degrees)
            for k in range(begin, end):
                knot, weights = _weights(distance[k], weight_p[pair[k]], per_length, n_knots)
                knots[k - begin] = knot * 2 * n_l * n_max
                for j in range(4):
                    hermite[j, k - begin] = weights[j]
            hermite[:, end - begin :] = 0.0  # what is left of others counts for nothing
            row = ((i - start) * n_channels + channel_p[pair[begin]]) * n_q * n_max
            scatter_lanes(coefficients, row, values, table, knots, hermite, size, degrees)
        for begin in range(bounds[n_groups], n_near, LANES):
            end = min(begin + LANES, n_near)
            _take(begin, end, pair, displacement_pc, xyz)
            harmonics(xyz, values, None, degrees)
            k = begin
            while k < end:
                channel = channel_p[pair[k]]
                knot, weights = _weights(distance[k], weight_p[pair[k]], per_length, n_knots)
                row = ((i - start) * n_channels + channel) * n_q * n_max
                at, lane = knot * 2 * n_l * n_max, k - begin
                if k + 1 < end and channel_p[pair[k + 1]] == channel:
                    knot2, weights2 = _weights(
                        distance[k + 1], weight_p[pair[k + 1]], per_length, n_knots
                    )
                    scatter_pairs(
                        coefficients, row, values, (lane, lane + 1), table,
                        (at, knot2 * 2 * n_l * n_max), (weights, weights2), size, degrees,
                    )  # fmt: skip
                    k += 2
                else:
                    scatter_pairs(
                        coefficients, row, values, (lane,), table, (at,), (weights,), size, degrees
                    )
                    k += 1
        if sum_channel >= 0:
            for channel in range(sum_channel):
                for q in range(n_q):
                    for n in range(n_max):
                        c[sum_channel, q, n] += c[channel, q, n]


@numba.njit(**OPTIONS)
def power_spectrum(coefficients, blocks, block_factor, scale_l, size, features):
    """Fill ``features[i, f]``: per block ``scale_l sum_m c_a c_b``.

    ``blocks[b] = (channel a, channel b, first feature)``. A block with a = b lists
    n <= n' with off-diagonal entries times sqrt(2); one with a != b lists all n, n'.
    ``block_factor`` multiplies a block (the off-diagonal entries if a = b).
    """
    n_max = extent(size)
    n_l, n_channels = scale_l.shape[0], coefficients.shape[1]
    gram = np.zeros((n_max, n_max))
    for i in range(coefficients.shape[0]):
        for b in range(blocks.shape[0]):
            symmetric = blocks[b, 0] == blocks[b, 1]
            a_start = (i * n_channels + blocks[b, 0]) * n_l * n_l * n_max
            b_start = (i * n_channels + blocks[b, 1]) * n_l * n_l * n_max
            f = blocks[b, 2]
            for l in range(n_l):
                at = l * l * n_max
                fill_gram(coefficients, a_start + at, b_start + at, 2 * l + 1, gram, size)
                scale = scale_l[l]
                factor = scale * block_factor[b]
                for n in range(n_max):
                    if symmetric:
                        features[i, f] = scale * gram[n, n]
                        f += 1
                        for k in range(n + 1, n_max):
                            features[i, f] = factor * gram[n, k]
                            f += 1
                    else:
                        for k in range(n_max):
                            features[i, f] = factor * gram[n, k]
                            f += 1


@numba.njit(**OPTIONS)
def power_spectrum_adjoint(
    coefficients, cotangent, blocks, block_factor, scale_l, size, sum_channel, adjoint
):
    """Fill ``adjoint = d(cotangent . features)/d coefficients`` (same shape)."""
    n_max = extent(size)
    n_l, n_channels = scale_l.shape[0], coefficients.shape[1]
    n_q = n_l * n_l
    gram, gram_t = np.zeros((n_max, n_max)), np.zeros((n_max, n_max))
    for i in range(coefficients.shape[0]):
        adjoint[i] = 0.0
        for b in range(blocks.shape[0]):
            symmetric = blocks[b, 0] == blocks[b, 1]
            a_start = (i * n_channels + blocks[b, 0]) * n_q * n_max
            b_start = (i * n_channels + blocks[b, 1]) * n_q * n_max
            f = blocks[b, 2]
            for l in range(n_l):
                scale = scale_l[l]
                factor = scale * block_factor[b]
                for n in range(n_max):
                    if symmetric:
                        gram[n, n] = 2.0 * scale * cotangent[i, f]
                        for k in range(n + 1, n_max):
                            gram[n, k] = factor * cotangent[i, f + k - n]
                        f += n_max - n
                    else:
                        for k in range(n_max):
                            gram[n, k] = factor * cotangent[i, f + k]
                        f += n_max
                if symmetric:
                    for n in range(1, n_max):
                        for k in range(n):
                            gram[n, k] = gram[k, n]
                at, n_m = l * l * n_max, 2 * l + 1
                fill_rows(
                    adjoint, b_start + at, coefficients, a_start + at, n_max, gram, 0, n_m, size,
                    size, 1.0, adjoint,
                )  # fmt: skip
                if not symmetric:
                    for n in range(n_max):
                        for k in range(n_max):
                            gram_t[k, n] = gram[n, k]
                    fill_rows(
                        adjoint, a_start + at, coefficients, b_start + at, n_max, gram_t, 0, n_m,
                        size, size, 1.0, adjoint,
                    )  # fmt: skip
        for channel in range(max(sum_channel, 0)):
            for q in range(n_q):
                for n in range(n_max):
                    adjoint[i, channel, q, n] += adjoint[i, sum_channel, q, n]


@numba.njit(**OPTIONS)
def pair_gradients(
    first,
    displacement_pc,
    channel_p,
    weight_p,
    start,
    stop,
    r_cut,
    table,
    size,
    l_max,
    prefactor_q,
    adjoint,
    gradient_pc,
):
    """Add ``sum_qn adjoint dc_qn/d displacement`` to ``gradient_pc`` of each pair."""
    n_max = extent(size)
    n_knots = table.shape[0]
    per_length = (n_knots - 1) / r_cut
    n_q = (l_max + 1) ** 2
    legendre = np.zeros(n_q)
    azimuth = np.zeros((2, l_max + 1))
    y_q = np.zeros(n_q)
    grad_cq = np.zeros((3, n_q))
    value_n = np.zeros(n_max)
    grad_x = np.zeros(n_max)
    grad_y = np.zeros(n_max)
    grad_z = np.zeros(n_max)
    for i in range(start, stop):
        for p in range(first[i], first[i + 1]):
            x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
            r = np.sqrt(x * x + y * y + z * z)
            if r >= r_cut:
                continue
            k, t = _knot(r, per_length, n_knots)
            value0, slope0, value1, slope1 = _hermite(t)
            d_value, d_slope0, _, d_slope1 = _hermite_slope(t, per_length)
            solid_harmonics(x, y, z, l_max, prefactor_q, legendre, azimuth, y_q)
            solid_harmonics_gradient(x, y, l_max, prefactor_q, legendre, azimuth, grad_cq)
            d_z = adjoint[i - start, channel_p[p]]
            along = 0.0
            total_x = 0.0
            total_y = 0.0
            total_z = 0.0
            for l in range(l_max + 1):
                value_n[:] = 0.0
                grad_x[:] = 0.0
                grad_y[:] = 0.0
                grad_z[:] = 0.0
                for q in range(l * l, (l + 1) * (l + 1)):
                    y_value = y_q[q]
                    gx, gy, gz = grad_cq[0, q], grad_cq[1, q], grad_cq[2, q]
                    for n in range(n_max):
                        d = d_z[q, n]
                        value_n[n] += y_value * d
                        grad_x[n] += gx * d
                        grad_y[n] += gy * d
                        grad_z[n] += gz * d
                for n in range(n_max):
                    f0 = table[k, 0, l, n]
                    g0 = table[k, 1, l, n]
                    f1 = table[k + 1, 0, l, n]
                    g1 = table[k + 1, 1, l, n]
                    radial = value0 * f0 + slope0 * g0 + value1 * f1 + slope1 * g1
                    d_radial = d_value * (f0 - f1) + d_slope0 * g0 + d_slope1 * g1
                    along += d_radial * value_n[n]
                    total_x += radial * grad_x[n]
                    total_y += radial * grad_y[n]
                    total_z += radial * grad_z[n]
            weight = weight_p[p]
            along /= r
            gradient_pc[p, 0] += weight * (total_x + along * x)
            gradient_pc[p, 1] += weight * (total_y + along * y)
            gradient_pc[p, 2] += weight * (total_z + along * z)


@numba.njit(**OPTIONS)
def pair_gradients_vector(
    first,
    displacement_pc,
    channel_p,
    weight_p,
    start,
    stop,
    r_cut,
    table,
    size,
    degrees,
    adjoint,
    gradient_pc,
):
    """`pair_gradients` in vector code; sizes as in `expand_vector`."""
    n_max, n_l = len(size), len(degrees)
    n_q = n_l * n_l
    n_knots = table.shape[0]
    per_length = (n_knots - 1) / r_cut
    n_channels = adjoint.shape[1]
    xyz = np.zeros((3, LANES))
    values = _aligned(n_q * LANES)
    gradients = _aligned(3 * n_q * LANES)
    knots = np.zeros(LANES, dtype=np.int64)
    hermite = np.zeros((6, LANES))
    radial = _aligned(n_l * n_max * LANES)
    d_radial = _aligned(n_l * n_max * LANES)
    along_q = _aligned(n_q * LANES)
    slopes_q = _aligned(n_q * LANES)
    found = np.empty((4, LANES))
    near, length, places, pair, distance, bounds = _room(_longest(first, start, stop), n_channels)
    for i in range(start, stop):
        n_groups, n_near = _group(
            first[i], first[i + 1], displacement_pc, channel_p, r_cut, near, length, places, pair,
            distance, bounds,
        )  # fmt: skip
        for group in range(n_groups):
            begin, end = bounds[group], bounds[group + 1]
            _take(begin, end, pair, displacement_pc, xyz)
            for k in range(begin, end):
                knot, t = _knot(distance[k], per_length, n_knots)
                weights, slopes = _hermite(t), _hermite_slope(t, per_length)
                knots[k - begin] = knot * 2 * n_l * n_max
                hermite[0, k - begin], hermite[3, k - begin] = weights[2], slopes[2]
                hermite[1, k - begin], hermite[4, k - begin] = weights[1], slopes[1]
                hermite[2, k - begin], hermite[5, k - begin] = weights[3], slopes[3]
            row = ((i - start) * n_channels + channel_p[pair[begin]]) * n_q * n_max
            radial_lanes(table, knots, hermite, radial, d_radial, size, degrees)
            gather_lanes(adjoint, row, radial, d_radial, along_q, slopes_q, size, degrees)
            harmonics_adjoint(xyz, along_q, slopes_q, found, degrees)
            for k in range(begin, end):
                p, lane = pair[k], k - begin
                along = found[0, lane] / distance[k]
                for c in range(3):
                    gradient_pc[p, c] += weight_p[p] * (found[c + 1, lane] + along * xyz[c, lane])
        for begin in range(bounds[n_groups], n_near, LANES):
            end = min(begin + LANES, n_near)
            _take(begin, end, pair, displacement_pc, xyz)
            harmonics(xyz, values, gradients, degrees)
            for k in range(begin, end):
                p, lane = pair[k], k - begin
                at, t = _knot(distance[k], per_length, n_knots)
                weights, slopes = _hermite(t), _hermite_slope(t, per_length)
                row = ((i - start) * n_channels + channel_p[p]) * n_q * n_max
                along, gx, gy, gz = gather_pair(
                    adjoint, row, values, gradients, lane, table, at * 2 * n_l * n_max, weights,
                    slopes, size, degrees,
                )  # fmt: skip
                along /= distance[k]
                gradient_pc[p, 0] += weight_p[p] * (gx + along * xyz[0, lane])
                gradient_pc[p, 1] += weight_p[p] * (gy + along * xyz[1, lane])
                gradient_pc[p, 2] += weight_p[p] * (gz + along * xyz[2, lane])


@numba.njit(**OPTIONS)
def jacobian(
    pairs,
    center_p,
    displacement_pc,
    channel_p,
    weight_p,
    r_cut,
    table,
    size,
    l_max,
    prefactor_q,
    coefficients,
    blocks,
    block_factor,
    scale_l,
    sum_channel,
    jacobian_pcf,
):
    """Fill ``jacobian_pcf[a, c, f] = d features / d displacement`` of ``pairs[a]``.

    ``center_p[a]`` is the row of ``coefficients`` of the pair's center. A pair moves
    the coefficients ``c_qn`` of its own channel by ``R'_n Y_q r_c/r + R_n dY_q/dr_c``
    (rank two in (q, c) against n), so only the contractions of ``Y_q`` and ``dY_q``
    with each partner channel are formed, never ``dc_qn`` itself.
    """
    n_max = extent(size)
    n_knots = table.shape[0]
    per_length = (n_knots - 1) / r_cut
    n_q = (l_max + 1) ** 2
    legendre = np.zeros(n_q)
    azimuth = np.zeros((2, l_max + 1))
    y_q = np.zeros(n_q)
    grad_cq = np.zeros((3, n_q))
    radial = np.zeros(n_max)
    d_radial = np.zeros(n_max)
    u_n = np.zeros(n_max)
    v_cn = np.zeros((3, n_max))
    unit = np.zeros(3)
    for a in range(pairs.shape[0]):
        p = pairs[a]
        out = jacobian_pcf[a]
        out[:] = 0.0
        x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
        r = np.sqrt(x * x + y * y + z * z)
        if r >= r_cut:
            continue
        unit[0], unit[1], unit[2] = x / r, y / r, z / r
        k, t = _knot(r, per_length, n_knots)
        value0, slope0, value1, slope1 = _hermite(t)
        d_value, d_slope0, _, d_slope1 = _hermite_slope(t, per_length)
        weight = weight_p[p]
        solid_harmonics(x, y, z, l_max, prefactor_q, legendre, azimuth, y_q)
        solid_harmonics_gradient(x, y, l_max, prefactor_q, legendre, azimuth, grad_cq)
        channel = channel_p[p]
        c_i = coefficients[center_p[a]]
        n_pairs_l = n_max * (n_max + 1) // 2
        for b in range(blocks.shape[0]):
            symmetric = blocks[b, 0] == blocks[b, 1]
            per_l = n_pairs_l if symmetric else n_max * n_max
            for side in range(2):
                mover, partner = blocks[b, side], blocks[b, 1 - side]
                if mover != channel and mover != sum_channel:
                    continue
                if symmetric and side == 1:
                    continue
                c_b = c_i[partner]
                for l in range(l_max + 1):
                    for n in range(n_max):
                        f0 = table[k, 0, l, n]
                        g0 = table[k, 1, l, n]
                        f1 = table[k + 1, 0, l, n]
                        g1 = table[k + 1, 1, l, n]
                        radial[n] = weight * (value0 * f0 + slope0 * g0 + value1 * f1 + slope1 * g1)
                        d_radial[n] = weight * (d_value * (f0 - f1) + d_slope0 * g0 + d_slope1 * g1)
                    u_n[:] = 0.0
                    v_cn[:] = 0.0
                    for q in range(l * l, (l + 1) * (l + 1)):
                        y_value = y_q[q]
                        gx, gy, gz = grad_cq[0, q], grad_cq[1, q], grad_cq[2, q]
                        for n in range(n_max):
                            c_value = c_b[q, n]
                            u_n[n] += y_value * c_value
                            v_cn[0, n] += gx * c_value
                            v_cn[1, n] += gy * c_value
                            v_cn[2, n] += gz * c_value
                    scale = scale_l[l]
                    factor = scale * block_factor[b]
                    f_start = blocks[b, 2] + l * per_l
                    for c in range(3):
                        f = f_start
                        if symmetric:
                            for n in range(n_max):
                                left = d_radial[n] * unit[c]
                                out[c, f] = 2.0 * scale * (left * u_n[n] + radial[n] * v_cn[c, n])
                                f += 1
                                for m in range(n + 1, n_max):
                                    out[c, f] = factor * (
                                        left * u_n[m]
                                        + radial[n] * v_cn[c, m]
                                        + d_radial[m] * unit[c] * u_n[n]
                                        + radial[m] * v_cn[c, n]
                                    )
                                    f += 1
                        elif side == 0:
                            for n in range(n_max):
                                left = factor * d_radial[n] * unit[c]
                                right = factor * radial[n]
                                for m in range(n_max):
                                    out[c, f + m] += left * u_n[m] + right * v_cn[c, m]
                                f += n_max
                        else:
                            for n in range(n_max):
                                for m in range(n_max):
                                    out[c, f + m] += factor * (
                                        d_radial[m] * unit[c] * u_n[n] + radial[m] * v_cn[c, n]
                                    )
                                f += n_max
