"""Forces and virials of a quadratic form in features, and back, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``p`` pair, ``c`` Cartesian, ``e``
environment, ``f`` feature. ``jacobian_pcf`` is the derivative of the embedded features of a
pair's center by its displacement, in single precision.
"""

import numba

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
