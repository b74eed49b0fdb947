"""Compiled pointwise kernel steps between two BLAS products.

Arrays in, caller-allocated arrays out; no checks. Suffixes: ``e`` environment, ``m``
sparse point, ``p`` pair, ``c`` Cartesian. ``cosine_em`` is the dot product of unit
feature vectors; the kernel is ``delta^2 cosine^zeta``.
"""

import numba
import numpy as np

from kernelpot.common._numba import INLINED, OPTIONS


@numba.njit(**OPTIONS)
def unit_vectors(features_ef, unit_ef, norm_e):
    """Fill ``norm_e`` with the lengths of rows, ``unit_ef`` with the rows divided by them."""
    for e in range(features_ef.shape[0]):
        features_f, unit_f = features_ef[e], unit_ef[e]
        square = 0.0
        for f in range(features_f.shape[0]):
            square += features_f[f] * features_f[f]
        norm_e[e] = np.sqrt(square)
        scale = 1.0 / norm_e[e]
        for f in range(features_f.shape[0]):
            unit_f[f] = scale * features_f[f]


@numba.njit(**INLINED)
def _power(base, exponent, integer_exponent):
    """``base**exponent``; by multiplication where ``integer_exponent`` >= 0."""
    if integer_exponent >= 0:
        result = 1.0
        for _ in range(integer_exponent):
            result *= base
        return result
    return base**exponent


@numba.njit(**INLINED)
def _scaled_powers(cosine_m, exponent, integer_exponent, factor, out_m):
    """Fill ``out_m = factor * cosine_m**exponent``; small integers in loops that vectorize."""
    n = cosine_m.shape[0]
    if integer_exponent == 1:
        for m in range(n):
            out_m[m] = factor * cosine_m[m]
    elif integer_exponent == 2:
        for m in range(n):
            out_m[m] = factor * (cosine_m[m] * cosine_m[m])
    elif integer_exponent == 3:
        for m in range(n):
            out_m[m] = factor * (cosine_m[m] * cosine_m[m]) * cosine_m[m]
    elif integer_exponent == 4:
        for m in range(n):
            square = cosine_m[m] * cosine_m[m]
            out_m[m] = factor * (square * square)
    else:
        for m in range(n):
            out_m[m] = factor * _power(cosine_m[m], exponent, integer_exponent)


@numba.njit(**OPTIONS)
def kernel_values(cosine_em, zeta, integer_zeta, delta2, values_em):
    """Fill ``values_em = delta^2 cosine^zeta``."""
    for e in range(cosine_em.shape[0]):
        _scaled_powers(cosine_em[e], zeta, integer_zeta, delta2, values_em[e])


@numba.njit(**OPTIONS)
def fill_kernel(cosine_em, zeta, integer_zeta, delta2, columns_m, out):
    """Fill ``out[e, columns_m[m]] = delta^2 cosine_em[e, m]^zeta`` for the given columns."""
    for e in range(cosine_em.shape[0]):
        for m in range(columns_m.shape[0]):
            out[e, columns_m[m]] = delta2 * _power(cosine_em[e, m], zeta, integer_zeta)


@numba.njit(**OPTIONS)
def kernel_slopes(cosine_em, zeta, integer_zeta, delta2, slopes_em):
    """Fill ``slopes_em = d kernel / d cosine``."""
    factor = delta2 * zeta
    less_one = integer_zeta - 1 if integer_zeta >= 1 else -1
    for e in range(cosine_em.shape[0]):
        _scaled_powers(cosine_em[e], zeta - 1.0, less_one, factor, slopes_em[e])


@numba.njit(**OPTIONS)
def weigh_slopes(cosine_em, zeta, integer_zeta, delta2, cotangent_em, projection_e):
    """Turn a cotangent of the kernel into one of the cosine, in place.

    ``cotangent_em`` is multiplied by the slope; ``projection_e`` receives its dot
    product with the cosines, which the normalization subtracts along the features.
    """
    factor = delta2 * zeta
    less_one = integer_zeta - 1 if integer_zeta >= 1 else -1
    slope_m = np.empty(cosine_em.shape[1])
    for e in range(cosine_em.shape[0]):
        cosine_m, cotangent_m = cosine_em[e], cotangent_em[e]
        _scaled_powers(cosine_m, zeta - 1.0, less_one, factor, slope_m)
        total = 0.0
        for m in range(cosine_m.shape[0]):
            cotangent_m[m] *= slope_m[m]
        for m in range(cosine_m.shape[0]):
            total += cotangent_m[m] * cosine_m[m]
        projection_e[e] = total


@numba.njit(**OPTIONS)
def mean_and_slopes(
    cosine_em, zeta, integer_zeta, delta2, weights_m, mean_e, slopes_em, projection_e
):
    """Mean and its cotangent of the cosine for one weight vector, in one sweep."""
    less_one = integer_zeta - 1 if integer_zeta >= 1 else -1
    for e in range(cosine_em.shape[0]):
        cosine_m, slopes_m = cosine_em[e], slopes_em[e]
        _scaled_powers(cosine_m, zeta - 1.0, less_one, zeta * delta2, slopes_m)
        total = 0.0
        for m in range(cosine_m.shape[0]):
            slopes_m[m] *= weights_m[m]
        for m in range(cosine_m.shape[0]):
            total += slopes_m[m] * cosine_m[m]
        mean_e[e] = total / zeta
        projection_e[e] = total
