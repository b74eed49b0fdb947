"""Compiled loops over pairs of atoms: sorting, displacements, forces, virials.

Arrays in, caller-allocated arrays out; no checks. Suffixes: ``n`` atom, ``p`` pair, ``c``
and ``d`` Cartesian.
"""

import numba
import numpy as np

from kernelpot.common._numba import OPTIONS


@numba.njit(**OPTIONS)
def both_directions(i_h, j_h, shift_hc, first, neighbor_p, shift_pc):
    """Sort pairs by center, each seen from both of its atoms.

    ``h`` counts pairs once, ``shift_hc`` (in cells) leads from the image of i's cell to
    that of j. ``first`` (zeros, n_atoms + 1) receives where the pairs of each center start.
    """
    for h in range(i_h.shape[0]):
        first[np.int64(i_h[h]) + 1] += 1
        first[np.int64(j_h[h]) + 1] += 1
    for n in range(1, first.shape[0]):
        first[n] += first[n - 1]
    free = first[:-1].copy()
    for h in range(i_h.shape[0]):
        i, j = np.int64(i_h[h]), np.int64(j_h[h])
        p = free[i]
        free[i] = p + 1
        neighbor_p[p] = j
        q = free[j]
        free[j] = q + 1
        neighbor_p[q] = i
        for c in range(3):
            shift_pc[p, c] = shift_hc[h, c]
            shift_pc[q, c] = -shift_hc[h, c]


@numba.njit(**OPTIONS)
def displacements(first, neighbor_p, shift_pc, position_nc, out_pc):
    """Fill vectors from center to neighbor."""
    for n in range(first.shape[0] - 1):
        x, y, z = position_nc[n, 0], position_nc[n, 1], position_nc[n, 2]
        for p in range(first[n], first[n + 1]):
            j = neighbor_p[p]
            out_pc[p, 0] = position_nc[j, 0] + shift_pc[p, 0] - x
            out_pc[p, 1] = position_nc[j, 1] + shift_pc[p, 1] - y
            out_pc[p, 2] = position_nc[j, 2] + shift_pc[p, 2] - z


@numba.njit(**OPTIONS)
def forces(first, neighbor_p, gradient_pc, force_nc):
    """Add the derivative by each displacement to its center, and take it from its neighbor."""
    for n in range(first.shape[0] - 1):
        x = y = z = 0.0
        for p in range(first[n], first[n + 1]):
            j = neighbor_p[p]
            gx, gy, gz = gradient_pc[p, 0], gradient_pc[p, 1], gradient_pc[p, 2]
            x += gx
            y += gy
            z += gz
            force_nc[j, 0] -= gx
            force_nc[j, 1] -= gy
            force_nc[j, 2] -= gz
        force_nc[n, 0] += x
        force_nc[n, 1] += y
        force_nc[n, 2] += z


@numba.njit(**OPTIONS)
def members(first, neighbor_p, displacement_pc, gradient_pcm, force_nk, virial_ck):
    """`forces` and `virial` of several energies (``m``); ``k`` is c and m together.

    Gradients are in single precision, sums of them are not.
    """
    n_all = force_nk.shape[1]
    n_pairs = gradient_pcm.shape[0]
    gradient_pk = gradient_pcm.reshape(n_pairs, n_all)
    total = np.empty(n_all)
    for n in range(first.shape[0] - 1):
        total[:] = 0.0
        for p in range(first[n], first[n + 1]):
            j = neighbor_p[p]
            x, y, z = displacement_pc[p, 0], displacement_pc[p, 1], displacement_pc[p, 2]
            for k in range(n_all):
                g = np.float64(gradient_pk[p, k])
                total[k] += g
                force_nk[j, k] -= g
                virial_ck[0, k] -= x * g
                virial_ck[1, k] -= y * g
                virial_ck[2, k] -= z * g
        for k in range(n_all):
            force_nk[n, k] += total[k]


@numba.njit(**OPTIONS)
def virial(displacement_pc, gradient_pd, out_cd):
    """Subtract the sum of outer products of displacements and derivatives."""
    for c in range(3):
        a = b = d = 0.0
        for p in range(displacement_pc.shape[0]):
            r = displacement_pc[p, c]
            a += r * gradient_pd[p, 0]
            b += r * gradient_pd[p, 1]
            d += r * gradient_pd[p, 2]
        out_cd[c, 0] -= a
        out_cd[c, 1] -= b
        out_cd[c, 2] -= d


@numba.njit(**OPTIONS)
def add(chosen_k, center_p, displacement_pc, value_k, slope_k, energy_n, gradient_pc):
    """Add some pairs to energies and derivatives by displacements.

    ``value_k`` goes to the center; ``slope_k`` is the derivative by distance over distance.
    """
    for k in range(chosen_k.shape[0]):
        p = chosen_k[k]
        energy_n[center_p[p]] += value_k[k]
        for c in range(3):
            gradient_pc[p, c] += slope_k[k] * displacement_pc[p, c]


@numba.njit(**OPTIONS)
def between(first, neighbor_p, position_nc, out_pc):
    """Fill vectors from center to neighbor where images are atoms of their own."""
    for n in range(first.shape[0] - 1):
        x, y, z = position_nc[n, 0], position_nc[n, 1], position_nc[n, 2]
        for p in range(first[n], first[n + 1]):
            j = neighbor_p[p]
            out_pc[p, 0] = position_nc[j, 0] - x
            out_pc[p, 1] = position_nc[j, 1] - y
            out_pc[p, 2] = position_nc[j, 2] - z
