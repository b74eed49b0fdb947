"""Forces and virials of a quadratic form in features, and back, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``p`` pair, ``c`` Cartesian, ``e``
environment, ``f`` feature. ``jacobian_pcf`` is the derivative of the embedded features of a
pair's center by its displacement, in single precision.
"""

import numba
import numpy as np

from kernelpot.common._numba import OPTIONS


@numba.njit(**OPTIONS)
def forces_of(
    jacobian_pcf,
    environment_p,
    atom_p,
    neighbor_p,
    structure_p,
    displacement_pc,
    by_u_ef,
    forces_n,
    virials_s,
):
    """Add forces and virials (xx yy zz yz xz xy) of energies with the derivative ``by_u_ef``."""
    for p in range(jacobian_pcf.shape[0]):
        e = environment_p[p]
        i, j, v = 3 * atom_p[p], 3 * neighbor_p[p], 6 * structure_p[p]
        x = y = z = 0.0
        for f in range(jacobian_pcf.shape[2]):
            slope = by_u_ef[e, f]
            x += jacobian_pcf[p, 0, f] * slope
            y += jacobian_pcf[p, 1, f] * slope
            z += jacobian_pcf[p, 2, f] * slope
        forces_n[i] += x
        forces_n[i + 1] += y
        forces_n[i + 2] += z
        forces_n[j] -= x
        forces_n[j + 1] -= y
        forces_n[j + 2] -= z
        rx, ry, rz = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
        virials_s[v] -= rx * x
        virials_s[v + 1] -= ry * y
        virials_s[v + 2] -= rz * z
        virials_s[v + 3] -= ry * z
        virials_s[v + 4] -= rx * z
        virials_s[v + 5] -= rx * y


@numba.njit(**OPTIONS)
def back_to_features(
    jacobian_pcf,
    environment_p,
    atom_p,
    neighbor_p,
    structure_p,
    displacement_pc,
    forces_n,
    virials_s,
    out_ef,
):
    """Add the adjoint of `forces_of`: from weights of forces and virials to features."""
    for p in range(jacobian_pcf.shape[0]):
        e = environment_p[p]
        i, j, v = 3 * atom_p[p], 3 * neighbor_p[p], 6 * structure_p[p]
        rx, ry, rz = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
        x = forces_n[i] - forces_n[j] - rx * virials_s[v]
        y = forces_n[i + 1] - forces_n[j + 1] - ry * virials_s[v + 1] - rx * virials_s[v + 5]
        z = (
            forces_n[i + 2]
            - forces_n[j + 2]
            - rz * virials_s[v + 2]
            - ry * virials_s[v + 3]
            - rx * virials_s[v + 4]
        )
        for f in range(jacobian_pcf.shape[2]):
            out_ef[e, f] += (
                x * jacobian_pcf[p, 0, f] + y * jacobian_pcf[p, 1, f] + z * jacobian_pcf[p, 2, f]
            )


@numba.njit(**OPTIONS)
def squares_of_slopes(jacobian_pcf, environment_p, atom_p, neighbor_p, weight_n, out_ef):
    """Add the squares of derivatives, each weighted with those of the two atoms' forces."""
    for p in range(jacobian_pcf.shape[0]):
        e = environment_p[p]
        for c in range(3):
            i, j = 3 * atom_p[p] + c, 3 * neighbor_p[p] + c
            weight = weight_n[i] * weight_n[i] + weight_n[j] * weight_n[j]
            for f in range(jacobian_pcf.shape[2]):
                slope = jacobian_pcf[p, c, f]
                out_ef[e, f] += weight * slope * slope


@numba.njit(**OPTIONS)
def screen(u_ef, row_e, index_mk, factor_m, triangle_mm, stages, prior, enough, variance_e):
    """Fill ``variance_e[row_e]``: the prior less what monomials explain, as far as needed.

    ``k = factor_m u_a u_b`` is the covariance of a local energy with the weights of monomials, and
    ``triangle_mm`` (lower, by rows) what its explained variance is the squared length of. Each row
    lowers the variance. At the end of each of the ``stages`` (ascending; the last one is all rows)
    those environments are done whose variance is not above ``enough``. Returns the number of
    others.
    """
    n_rows = len(row_e)
    k_em = np.empty((n_rows, triangle_mm.shape[0]))
    left = np.ones(n_rows, dtype=np.bool_)
    for e in range(n_rows):
        variance_e[row_e[e]] = prior
    above, start = n_rows, 0
    for stop in stages:
        if above == 0:
            break
        for e in range(n_rows):
            if left[e]:
                i = row_e[e]
                for m in range(start, stop):
                    k_em[e, m] = factor_m[m] * u_ef[i, index_mk[m, 0]] * u_ef[i, index_mk[m, 1]]
        for m in range(start, stop):  # each row of the triangle is read once, for all
            for e in range(n_rows):
                if left[e]:
                    total = 0.0
                    for j in range(m + 1):
                        total += triangle_mm[m, j] * k_em[e, j]
                    variance_e[row_e[e]] -= total * total
        for e in range(n_rows):
            if left[e] and variance_e[row_e[e]] <= enough:
                left[e] = False
                above -= 1
        start = stop
    return above
