"""Compiled pointwise kernel steps between two BLAS products.

Arrays in, caller-allocated arrays out; no checks. Suffixes: ``e`` environment, ``m``
sparse point, ``p`` pair, ``c`` Cartesian. ``cosine_em`` is the dot product of unit
feature vectors; the kernel is ``delta^2 cosine^zeta``.
"""

import numba

from kernelpot.common._numba import INLINED, OPTIONS


@numba.njit(**INLINED)
def _power(base, exponent, integer_exponent):
    """``base**exponent``; by multiplication where ``integer_exponent`` >= 0."""
    if integer_exponent >= 0:
        result = 1.0
        for _ in range(integer_exponent):
            result *= base
        return result
    return base**exponent


@numba.njit(**OPTIONS)
def kernel_values(cosine_em, zeta, integer_zeta, delta2, values_em):
    """Fill ``values_em = delta^2 cosine^zeta``."""
    for e in range(cosine_em.shape[0]):
        for m in range(cosine_em.shape[1]):
            values_em[e, m] = delta2 * _power(cosine_em[e, m], zeta, integer_zeta)


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
        for m in range(cosine_em.shape[1]):
            slopes_em[e, m] = factor * _power(cosine_em[e, m], zeta - 1.0, less_one)


@numba.njit(**OPTIONS)
def weigh_slopes(cosine_em, zeta, integer_zeta, delta2, cotangent_em, projection_e):
    """Turn a cotangent of the kernel into one of the cosine, in place.

    ``cotangent_em`` is multiplied by the slope; ``projection_e`` receives its dot
    product with the cosines, which the normalization subtracts along the features.
    """
    factor = delta2 * zeta
    less_one = integer_zeta - 1 if integer_zeta >= 1 else -1
    for e in range(cosine_em.shape[0]):
        total = 0.0
        for m in range(cosine_em.shape[1]):
            slope = factor * _power(cosine_em[e, m], zeta - 1.0, less_one)
            weighted = slope * cotangent_em[e, m]
            cotangent_em[e, m] = weighted
            total += weighted * cosine_em[e, m]
        projection_e[e] = total


@numba.njit(**OPTIONS)
def mean_and_slopes(
    cosine_em, zeta, integer_zeta, delta2, weights_m, mean_e, slopes_em, projection_e
):
    """Mean and its cotangent of the cosine for one weight vector, in one sweep."""
    less_one = integer_zeta - 1 if integer_zeta >= 1 else -1
    for e in range(cosine_em.shape[0]):
        total = 0.0
        for m in range(cosine_em.shape[1]):
            cosine = cosine_em[e, m]
            lower = delta2 * weights_m[m] * _power(cosine, zeta - 1.0, less_one)
            slopes_em[e, m] = zeta * lower
            total += lower * cosine
        mean_e[e] = total
        projection_e[e] = zeta * total
