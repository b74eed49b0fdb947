"""Rows and adjoints from derivatives by pair displacements, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``p`` pair, ``c`` Cartesian, ``e``
environment, ``m`` sparse point.
"""

import numba

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
    with_virial = virial_rows.shape[0] > 0
    for p in range(along_points_pcm.shape[0]):
        e = center_p[p]
        i, j, v = 3 * atom_p[p], 3 * neighbor_p[p], 6 * structure_p[p]
        x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
        self_x, self_y, self_z = along_self_pc[p, 0], along_self_pc[p, 1], along_self_pc[p, 2]
        along_cm, own_m, slope_m = along_points_pcm[p], own_em[e], slopes_em[e]
        for m in range(along_points_pcm.shape[2]):
            d_x = slope_m[m] * (along_cm[0, m] - own_m[m] * self_x)
            d_y = slope_m[m] * (along_cm[1, m] - own_m[m] * self_y)
            d_z = slope_m[m] * (along_cm[2, m] - own_m[m] * self_z)
            force_rows[i, m] += d_x
            force_rows[i + 1, m] += d_y
            force_rows[i + 2, m] += d_z
            force_rows[j, m] -= d_x
            force_rows[j + 1, m] -= d_y
            force_rows[j + 2, m] -= d_z
            if with_virial:
                virial_rows[v, m] -= x * d_x
                virial_rows[v + 1, m] -= y * d_y
                virial_rows[v + 2, m] -= z * d_z
                virial_rows[v + 3, m] -= y * d_z
                virial_rows[v + 4, m] -= x * d_z
                virial_rows[v + 5, m] -= x * d_y


@numba.njit(**OPTIONS)
def gather(jacobian_pcf, group_p, member_p, displacement_pc, moved_gcf, strained_ekf):
    """Add up what belongs together in the Jacobians of pairs.

    ``moved_gcf`` receives their sums over groups of pairs, and ``strained_ekf``, unless it is
    empty, those of displacement times Jacobian over environments (xx yy zz yz xz xy).
    """
    for p in range(jacobian_pcf.shape[0]):
        g, e = group_p[p], member_p[p]
        x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
        for f in range(jacobian_pcf.shape[2]):
            d_x, d_y, d_z = jacobian_pcf[p, 0, f], jacobian_pcf[p, 1, f], jacobian_pcf[p, 2, f]
            moved_gcf[g, 0, f] += d_x
            moved_gcf[g, 1, f] += d_y
            moved_gcf[g, 2, f] += d_z
            if len(strained_ekf):
                strained_ekf[e, 0, f] += x * d_x
                strained_ekf[e, 1, f] += y * d_y
                strained_ekf[e, 2, f] += z * d_z
                strained_ekf[e, 3, f] += y * d_z
                strained_ekf[e, 4, f] += x * d_z
                strained_ekf[e, 5, f] += x * d_y


@numba.njit(**OPTIONS)
def accumulate_virials(
    along_points_ekm, along_self_ek, row_e, structure_e, own_em, slopes_em, virial_rows
):
    """Add to virial rows what strain makes of some environments; as `accumulate`."""
    for e in range(along_points_ekm.shape[0]):
        row, v = row_e[e], 6 * structure_e[e]
        for k in range(6):
            along_self = along_self_ek[e, k]
            for m in range(along_points_ekm.shape[2]):
                virial_rows[v + k, m] -= slopes_em[row, m] * (
                    along_points_ekm[e, k, m] - own_em[row, m] * along_self
                )


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
