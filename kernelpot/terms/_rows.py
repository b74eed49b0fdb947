"""Rows of forces and virials from derivatives by pair displacements, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``p`` pair, ``c`` Cartesian, ``e``
environment, ``m`` sparse point.
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


@numba.njit(**_OPTIONS)
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
