"""Compiled pointwise kernel steps between two BLAS products.

Arrays in, caller-allocated arrays out; no checks. Suffixes: ``e`` environment, ``m``
sparse point, ``p`` pair, ``c`` Cartesian. ``cosine_em`` is the dot product of unit
feature vectors; the kernel is ``delta^2 cosine^zeta``.
"""

import numba
import numpy as np

from kernelpot.common import _numba  # noqa: F401 - before the first compiled function

_OPTIONS = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
_INLINED = {**_OPTIONS, "forceinline": True}  # results are repeatable, see `_soap`


@numba.njit(**_INLINED)
def _power(base, exponent, integer_exponent):
    """``base**exponent``; by multiplication where ``integer_exponent`` >= 0."""
    if integer_exponent >= 0:
        result = 1.0
        for _ in range(integer_exponent):
            result *= base
        return result
    return base**exponent


@numba.njit(**_OPTIONS)
def kernel_values(cosine_em, zeta, integer_zeta, delta2, values_em):
    """Fill ``values_em = delta^2 cosine^zeta``."""
    for e in range(cosine_em.shape[0]):
        for m in range(cosine_em.shape[1]):
            values_em[e, m] = delta2 * _power(cosine_em[e, m], zeta, integer_zeta)


@numba.njit(**_OPTIONS)
def fill_kernel(cosine_em, zeta, integer_zeta, delta2, columns_m, out):
    """Fill ``out[e, columns_m[m]] = delta^2 cosine_em[e, m]^zeta`` for the given columns."""
    for e in range(cosine_em.shape[0]):
        for m in range(columns_m.shape[0]):
            out[e, columns_m[m]] = delta2 * _power(cosine_em[e, m], zeta, integer_zeta)


@numba.njit(**_OPTIONS)
def kernel_slopes(cosine_em, zeta, integer_zeta, delta2, slopes_em):
    """Fill ``slopes_em = d kernel / d cosine``."""
    factor = delta2 * zeta
    less_one = integer_zeta - 1 if integer_zeta >= 1 else -1
    for e in range(cosine_em.shape[0]):
        for m in range(cosine_em.shape[1]):
            slopes_em[e, m] = factor * _power(cosine_em[e, m], zeta - 1.0, less_one)


@numba.njit(**_OPTIONS)
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


@numba.njit(**_OPTIONS)
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


@numba.njit(**_OPTIONS)
def accumulate_rows(
    along_sparse_pcm,
    along_self_pc,
    center_p,
    atom_p,
    neighbor_p,
    structure_p,
    displacement_pc,
    cosine_em,
    slopes_em,
    force_rows,
    virial_rows,
):
    """Add what each pair contributes to force and virial rows.

    ``along_sparse_pcm`` is the feature Jacobian times the unit sparse features,
    ``along_self_pc`` times the center's own; with ``slopes_em`` (already divided by
    the feature norm) the kernel gradient of a pair is
    ``slope (along_sparse - cosine along_self)``. The force on the center grows by it,
    that on the neighbor shrinks; virial rows (xx yy zz yz xz xy) are ``-r_a d_b``.
    """
    n_sparse = along_sparse_pcm.shape[2]
    gradient = np.empty((3, n_sparse))
    with_virial = virial_rows.shape[0] > 0
    for p in range(along_sparse_pcm.shape[0]):
        e = center_p[p]
        i, j = 3 * atom_p[p], 3 * neighbor_p[p]
        for c in range(3):
            self_c = along_self_pc[p, c]
            for m in range(n_sparse):
                d = slopes_em[e, m] * (along_sparse_pcm[p, c, m] - cosine_em[e, m] * self_c)
                gradient[c, m] = d
                force_rows[i + c, m] += d
                force_rows[j + c, m] -= d
        if with_virial:
            v = 6 * structure_p[p]
            x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
            for m in range(n_sparse):
                virial_rows[v, m] -= x * gradient[0, m]
                virial_rows[v + 1, m] -= y * gradient[1, m]
                virial_rows[v + 2, m] -= z * gradient[2, m]
                virial_rows[v + 3, m] -= y * gradient[2, m]
                virial_rows[v + 4, m] -= x * gradient[2, m]
                virial_rows[v + 5, m] -= x * gradient[1, m]
