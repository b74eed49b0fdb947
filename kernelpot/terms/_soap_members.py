"""Compiled SOAP loops: derivatives of several scalars by displacements, all at once.

What `_soap` does for one scalar: for each of them `power_spectrum_adjoint` and
`pair_gradients_vector` are what these loops must equal, in single precision. What does not
depend on the scalars is formed once, some pairs together, and multiplied with what they have by
coefficients or features at the rate of BLAS. Suffixes as there; ``m`` is a scalar.
"""

import numba
import numpy as np

from kernelpot.common._numba import INLINED, OPTIONS
from kernelpot.terms._soap import _hermite, _hermite_slope, _knot
from kernelpot.terms._soap_lanes import (
    SINGLES,
    contract_lanes,
    features_lanes,
    radial_lane,
    tangent_rows,
)
from kernelpot.terms._soap_vector import LANES, harmonics

# Pairs whose derivatives are multiplied with several adjoints at a time.
TANGENTS = 2 * LANES


@numba.njit(**INLINED)
def _fill_lanes(p, last, displacement_pc, r_cut, xyz, distance, pair):
    """Collect up to LANES pairs within the cutoff; return how many, and where to go on."""
    lanes = 0
    while p < last and lanes < LANES:
        x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
        r = np.sqrt(x * x + y * y + z * z)
        if r < r_cut:
            xyz[0, lanes], xyz[1, lanes], xyz[2, lanes] = x, y, z
            distance[lanes], pair[lanes] = r, p
            lanes += 1
        p += 1
    return lanes, p


@numba.njit(**INLINED)
def _fill_lanes_of(channel, p, last, displacement_pc, channel_p, r_cut, xyz, distance, pair):
    """`_fill_lanes` with the pairs of one channel."""
    lanes = 0
    while p < last and lanes < LANES:
        if channel_p[p] == channel:
            x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
            r = np.sqrt(x * x + y * y + z * z)
            if r < r_cut:
                xyz[0, lanes], xyz[1, lanes], xyz[2, lanes] = x, y, z
                distance[lanes], pair[lanes] = r, p
                lanes += 1
        p += 1
    return lanes, p


@numba.njit(**INLINED)
def _pair_weights(r, weight, t, per_length):
    """Hermite weights of a pair's radial functions, and of their derivatives over the distance."""
    value0, slope0, value1, slope1 = _hermite(t)
    weights = (weight * value0, weight * slope0, weight * value1, weight * slope1)
    value0, slope0, value1, slope1 = _hermite_slope(t, per_length)
    weight /= r
    return weights, (weight * value0, weight * slope0, weight * value1, weight * slope1)


@numba.njit(**OPTIONS)
def members_gradients_lanes(
    first,
    displacement_pc,
    weight_p,
    start,
    stop,
    r_cut,
    table,
    size,
    degrees,
    coefficients,
    cotangent_ifm,
    block_factor,
    scale_l,
    gradient_pcm,
):
    """`members_gradients_vector` where there is one species.

    There are fewer features than coefficients then: the derivatives of the features themselves
    by the displacements of a few pairs are formed, (f, 3 pairs), and multiplied with those of
    all scalars by features.
    """
    n_max, n_l = len(size), len(degrees)
    n_q = n_l * n_l
    n_pairs_l = n_max * (n_max + 1) // 2
    n_knots = table.shape[0]
    per_length = (n_knots - 1) / r_cut
    n_members = cotangent_ifm.shape[2]
    xyz = np.zeros((3, LANES))
    values = np.empty((n_q, LANES))
    gradients = np.empty((3, n_q, LANES))
    distance = np.empty(LANES)
    pair = np.empty(LANES, dtype=np.int64)
    singles = np.zeros((3, SINGLES), dtype=np.float32)
    radial = np.zeros((n_l, n_max, SINGLES), dtype=np.float32)
    d_radial = np.zeros((n_l, n_max, SINGLES), dtype=np.float32)
    moved = np.zeros((n_l, n_max, 4, SINGLES), dtype=np.float32)
    derivative = np.zeros((n_l * n_pairs_l, 3 * SINGLES), dtype=np.float32)
    product = np.empty((3 * SINGLES, n_members), dtype=np.float32)
    of_pair = np.empty(SINGLES, dtype=np.int64)
    factor_l = (scale_l * block_factor[0]).astype(np.float32)
    diagonal = np.float32(2.0 / block_factor[0])
    for i in range(start, stop):
        row = (i - start) * coefficients.shape[1] * n_q * n_max
        p, last, filled = first[i], first[i + 1], 0
        while p < last:
            lanes, p = _fill_lanes(p, last, displacement_pc, r_cut, xyz, distance, pair)
            if lanes > 0:
                harmonics(xyz, values, gradients, degrees)
                contract_lanes(coefficients, row, values, gradients, moved, filled, size, degrees)
            for lane in range(lanes):
                k, t = _knot(distance[lane], per_length, n_knots)
                weights, slopes = _pair_weights(distance[lane], weight_p[pair[lane]], t, per_length)
                radial_lane(
                    table, k * 2 * n_l * n_max, weights, slopes, radial, d_radial, filled, size,
                    degrees,
                )  # fmt: skip
                for c in range(3):
                    singles[c, filled] = xyz[c, lane]
                of_pair[filled] = pair[lane]
                filled += 1
            if filled > 0 and (p >= last or filled > SINGLES - LANES):
                for l in range(n_l):
                    features_lanes(
                        radial, d_radial, singles, moved, l * n_max * SINGLES,
                        4 * l * n_max * SINGLES, factor_l[l], diagonal, derivative,
                        3 * l * n_pairs_l * SINGLES, size,
                    )  # fmt: skip
                np.dot(derivative.T, cotangent_ifm[i - start], product)
                for k in range(filled):
                    for c in range(3):
                        for m in range(n_members):
                            gradient_pcm[of_pair[k], c, m] += product[c * SINGLES + k, m]
                filled = 0


@numba.njit(**INLINED)
def _members_adjoint(
    c, cotangent_fm, blocks, block_factor, scale_l, sum_channel, gram, product, adjoint
):
    """Fill ``adjoint[channel, q, n, m]``: `power_spectrum_adjoint` of several, in singles."""
    n_l, n_max, n_members = scale_l.shape[0], gram.shape[0], gram.shape[2]
    adjoint[:] = 0.0
    for b in range(blocks.shape[0]):
        symmetric = blocks[b, 0] == blocks[b, 1]
        for side in range(1 if symmetric else 2):
            source, target = blocks[b, side], blocks[b, 1 - side]
            f = blocks[b, 2]
            for l in range(n_l):
                for n in range(n_max):
                    for k in range(n if symmetric else 0, n_max):
                        factor = np.float32(scale_l[l] * block_factor[b])
                        if symmetric and k == n:
                            factor = np.float32(2.0 * scale_l[l])
                        row, column = (k, n) if side == 1 else (n, k)
                        for m in range(n_members):
                            gram[row, column, m] = factor * cotangent_fm[f, m]
                        if symmetric:
                            for m in range(n_members):
                                gram[column, row, m] = gram[row, column, m]
                        f += 1
                first, n_m = l * l, 2 * l + 1
                rows = product[:n_m]
                np.dot(c[source, first : first + n_m], gram.reshape(n_max, n_max * n_members), rows)
                for q in range(n_m):
                    for n in range(n_max):
                        for m in range(n_members):
                            adjoint[target, first + q, n, m] += rows[q, n * n_members + m]
    for channel in range(max(sum_channel, 0)):
        for q in range(n_l * n_l):
            for n in range(n_max):
                for m in range(n_members):
                    adjoint[channel, q, n, m] += adjoint[sum_channel, q, n, m]


@numba.njit(**INLINED)
def pull_members(
    start, stop, displacement_pc, channel_p, weight_p, r_cut, table, size, degrees, adjoint, xyz,
    values, gradients, distance, pair, tangent, product, of_pair, gradient_pcm,
):  # fmt: skip
    """Add ``adjoint[channel, q, n, m] dc_qn/d displacement`` of the pairs of one center.

    Derivatives of a pair's coefficients by its displacement, (3, q n), are formed once, some pairs
    together, and multiplied with the adjoints of all scalars at the rate of BLAS. What comes after
    ``adjoint`` and before ``gradient_pcm`` is from `members_room`.
    """
    n_max, n_l = len(size), len(degrees)
    n_q = n_l * n_l
    n_channels, n_members = adjoint.shape[0], adjoint.shape[3]
    per_length = (table.shape[0] - 1) / r_cut
    n_knots = table.shape[0]
    for channel in range(n_channels):
        p, filled = start, 0
        while p < stop:
            lanes, p = _fill_lanes_of(
                channel, p, stop, displacement_pc, channel_p, r_cut, xyz, distance, pair
            )
            if lanes > 0:
                harmonics(xyz, values, gradients, degrees)
            for lane in range(lanes):
                of_pair[filled] = pair[lane]
                k, t = _knot(distance[lane], per_length, n_knots)
                weights, slopes = _pair_weights(distance[lane], weight_p[pair[lane]], t, per_length)
                tangent_rows(
                    table, k * 2 * n_l * n_max, weights, slopes, values, gradients, xyz, lane,
                    tangent, 3 * filled * n_q * n_max, size, degrees,
                )  # fmt: skip
                filled += 1
            if filled > 0 and (p >= stop or filled + LANES > TANGENTS):
                rows = product[: 3 * filled]
                np.dot(
                    tangent[: 3 * filled],
                    adjoint[channel].reshape(n_q * n_max, n_members),
                    rows,
                )
                for k in range(filled):
                    for c in range(3):
                        for m in range(n_members):
                            gradient_pcm[of_pair[k], c, m] += rows[3 * k + c, m]
                filled = 0


@numba.njit(**INLINED)
def members_room(n_max, n_q, n_members):
    """Arrays that `pull_members` works in."""
    return (
        np.zeros((3, LANES)),
        np.empty((n_q, LANES)),
        np.empty((3, n_q, LANES)),
        np.empty(LANES),
        np.empty(LANES, dtype=np.int64),
        np.empty((3 * TANGENTS, n_q * n_max), dtype=np.float32),
        np.empty((3 * TANGENTS, n_members), dtype=np.float32),
        np.empty(TANGENTS, dtype=np.int64),
    )


@numba.njit(**OPTIONS)
def members_gradients_vector(
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
    coefficients,
    cotangent_ifm,
    blocks,
    block_factor,
    scale_l,
    sum_channel,
    gradient_pcm,
):
    """Add the gradients of several scalars (``m``) to ``gradient_pcm`` of each pair.

    For one of them that is `power_spectrum_adjoint` and `pair_gradients_vector`. What depends on
    scalars is in single precision.
    """
    n_max, n_l = len(size), len(degrees)
    n_q = n_l * n_l
    n_members, n_channels = cotangent_ifm.shape[2], coefficients.shape[1]
    single = np.empty((n_channels, n_q, n_max), dtype=np.float32)
    gram = np.empty((n_max, n_max, n_members), dtype=np.float32)
    of_degree = np.empty((2 * n_l - 1, n_max * n_members), dtype=np.float32)
    adjoint = np.empty((n_channels, n_q, n_max, n_members), dtype=np.float32)
    room = members_room(n_max, n_q, n_members)
    for i in range(start, stop):
        single[:] = coefficients[i - start]
        _members_adjoint(
            single, cotangent_ifm[i - start], blocks, block_factor, scale_l, sum_channel, gram,
            of_degree, adjoint,
        )  # fmt: skip
        pull_members(
            first[i], first[i + 1], displacement_pc, channel_p, weight_p, r_cut, table, size,
            degrees, adjoint, *room, gradient_pcm,
        )  # fmt: skip
