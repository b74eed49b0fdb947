"""Monomials of features with their derivatives, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``e`` environment, ``m`` monomial, ``k``
factor of it, ``f`` feature, ``p`` pair, ``c`` Cartesian. A monomial of degree one to three is
``factor_m`` times the product of the features that a row of ``index_mk`` names.
"""

import numba
import numpy as np

from kernelpot.common._numba import INLINED, OPTIONS


@numba.njit(**OPTIONS)
def factors(index_mk, out_m):
    """Fill ``out_m`` with roots of multinomial coefficients; rows of ``index_mk`` ascend."""
    degree = index_mk.shape[1]
    permutations = (1.0, 1.0, 2.0, 6.0)
    for m in range(index_mk.shape[0]):
        repeated = 0  # equal neighbors: none, two factors alike, three
        for k in range(1, degree):
            if index_mk[m, k] == index_mk[m, k - 1]:
                repeated += 1
        out_m[m] = np.sqrt(permutations[degree] / permutations[repeated + 1])


@numba.njit(**OPTIONS)
def values(u_ef, index_mk, factor_m, out_em):
    """Fill ``out_em`` with the monomials."""
    degree = index_mk.shape[1]
    for e in range(u_ef.shape[0]):
        for m in range(index_mk.shape[0]):
            product = factor_m[m] * u_ef[e, index_mk[m, 0]]
            for k in range(1, degree):
                product *= u_ef[e, index_mk[m, k]]
            out_em[e, m] = product


@numba.njit(**INLINED)
def _expand(u_f, g_f, index_mk, factor_m, sign, out_m):
    """Add ``sign`` times the derivative of the monomials along ``g_f``."""
    degree = index_mk.shape[1]
    if degree == 1:
        for m in range(index_mk.shape[0]):
            out_m[m] += sign * factor_m[m] * g_f[index_mk[m, 0]]
    elif degree == 2:
        for m in range(index_mk.shape[0]):
            a, b = index_mk[m, 0], index_mk[m, 1]
            out_m[m] += sign * factor_m[m] * (g_f[a] * u_f[b] + u_f[a] * g_f[b])
    else:
        for m in range(index_mk.shape[0]):
            a, b, c = index_mk[m, 0], index_mk[m, 1], index_mk[m, 2]
            out_m[m] += (
                sign
                * factor_m[m]
                * (g_f[a] * u_f[b] * u_f[c] + u_f[a] * g_f[b] * u_f[c] + u_f[a] * u_f[b] * g_f[c])
            )


@numba.njit(**OPTIONS)
def directional(u_ef, by_u_ef, index_mk, factor_m, out_em):
    """Fill ``out_em`` with the derivatives of the monomials along ``by_u_ef``."""
    out_em[:] = 0.0
    for e in range(u_ef.shape[0]):
        _expand(u_ef[e], by_u_ef[e], index_mk, factor_m, 1.0, out_em[e])


@numba.njit(**OPTIONS)
def contract(cotangent_em, u_ef, index_mk, factor_m, out_ef):
    """Add the derivative by ``u_ef`` of the monomials weighted with ``cotangent_em``."""
    degree = index_mk.shape[1]
    for e in range(u_ef.shape[0]):
        for m in range(index_mk.shape[0]):
            weight = cotangent_em[e, m] * factor_m[m]
            a = index_mk[m, 0]
            if degree == 1:
                out_ef[e, a] += weight
            elif degree == 2:
                b = index_mk[m, 1]
                x, y = u_ef[e, a], u_ef[e, b]
                out_ef[e, a] += weight * y
                out_ef[e, b] += weight * x
            else:
                b, c = index_mk[m, 1], index_mk[m, 2]
                x, y, z = u_ef[e, a], u_ef[e, b], u_ef[e, c]
                out_ef[e, a] += weight * y * z
                out_ef[e, b] += weight * x * z
                out_ef[e, c] += weight * x * y


@numba.njit(**OPTIONS)
def accumulate(
    jacobian_pcf,
    environment_p,
    atom_p,
    neighbor_p,
    structure_p,
    displacement_pc,
    u_ef,
    scale_e,
    index_mk,
    factor_m,
    force_rows,
    virial_rows,
):
    """Add what each pair contributes to force and virial rows.

    ``jacobian_pcf`` is that of features before normalization to unit length; ``scale_e`` the
    slope of the kernel divided by the length. Pairs of one center follow each other: what moves
    the center itself, and strain, is summed over them before it is expanded in monomials.
    Signs as in `_rows.accumulate`.
    """
    n_features = u_ef.shape[1]
    with_virial = virial_rows.shape[0] > 0
    moved = np.empty((3, n_features))
    own = np.zeros((3, n_features))
    strained = np.zeros((6, n_features))
    n_pairs = jacobian_pcf.shape[0]
    for p in range(n_pairs):
        e = environment_p[p]
        for c in range(3):
            along = 0.0
            for f in range(n_features):
                along += jacobian_pcf[p, c, f] * u_ef[e, f]
            for f in range(n_features):
                g = scale_e[e] * (jacobian_pcf[p, c, f] - along * u_ef[e, f])
                moved[c, f] = g
                own[c, f] += g
            row = 3 * neighbor_p[p] + c
            _expand(u_ef[e], moved[c], index_mk, factor_m, -1.0, force_rows[row])
        if with_virial:
            x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
            for f in range(n_features):
                strained[0, f] += x * moved[0, f]
                strained[1, f] += y * moved[1, f]
                strained[2, f] += z * moved[2, f]
                strained[3, f] += y * moved[2, f]
                strained[4, f] += x * moved[2, f]
                strained[5, f] += x * moved[1, f]
        if p == n_pairs - 1 or environment_p[p + 1] != e:
            for c in range(3):
                row = 3 * atom_p[p] + c
                _expand(u_ef[e], own[c], index_mk, factor_m, 1.0, force_rows[row])
            own[:] = 0.0
            if with_virial:
                for v in range(6):
                    row = 6 * structure_p[p] + v
                    _expand(u_ef[e], strained[v], index_mk, factor_m, -1.0, virial_rows[row])
                strained[:] = 0.0
