"""Rows and adjoints from derivatives by pair displacements, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``p`` pair, ``c`` Cartesian, ``e``
environment, ``m`` sparse point.
"""

import numba
import numpy as np

from kernelpot.common._numba import OPTIONS


@numba.njit(**OPTIONS)
def accumulate(
    along_points_pcm,
    along_self_pc,
    center_p,
    atom_p,
    neighbor_p,
    structure_p,
    displacement_pc,
    own_em,
    slopes_em,
    force_rows,
    virial_rows,
):
    """Add what each pair contributes to force and virial rows.

    ``along_points_pcm`` is the Jacobian of a pair's environment times the points,
    ``along_self_pc`` times the environment's own features; with ``slopes_em`` the kernel
    gradient of a pair is ``slope (along_points - own along_self)``. The force on the center
    grows by it, that on the neighbor shrinks; virial rows (xx yy zz yz xz xy) are
    ``-r_a d_b``.
    """
    n_points = along_points_pcm.shape[2]
    gradient = np.empty((3, n_points))
    with_virial = virial_rows.shape[0] > 0
    for p in range(along_points_pcm.shape[0]):
        e = center_p[p]
        i, j = 3 * atom_p[p], 3 * neighbor_p[p]
        for c in range(3):
            self_c = along_self_pc[p, c]
            for m in range(n_points):
                d = slopes_em[e, m] * (along_points_pcm[p, c, m] - own_em[e, m] * self_c)
                gradient[c, m] = d
                force_rows[i + c, m] += d
                force_rows[j + c, m] -= d
        if with_virial:
            v = 6 * structure_p[p]
            x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
            for m in range(n_points):
                virial_rows[v, m] -= x * gradient[0, m]
                virial_rows[v + 1, m] -= y * gradient[1, m]
                virial_rows[v + 2, m] -= z * gradient[2, m]
                virial_rows[v + 3, m] -= y * gradient[2, m]
                virial_rows[v + 4, m] -= x * gradient[2, m]
                virial_rows[v + 5, m] -= x * gradient[1, m]


@numba.njit(**OPTIONS)
def pull(owner_n, pair_n, jacobian_ncf, by_x_ef, gradient_pc):
    """Add to the gradient by displacements what derivatives by features are of them.

    Entry n of the Jacobian says how the displacement of ``pair_n`` moves the environment
    ``owner_n``.
    """
    for n in range(len(owner_n)):
        e, p = owner_n[n], pair_n[n]
        for c in range(3):
            total = 0.0
            for f in range(by_x_ef.shape[1]):
                total += jacobian_ncf[n, c, f] * by_x_ef[e, f]
            gradient_pc[p, c] += total
