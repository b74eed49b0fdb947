"""Compiled sums of Coulomb interactions between point charges.

Arrays in, caller-allocated arrays out, which are added to; no checks. Lengths in Å,
charges in e, energies in e^2/Å (Gaussian). ``kind_n`` numbers the species; ``width_kk``
holds the damping width of each pair of species, 0 for none.
"""

import math

import numba
import numpy as np

from kernelpot.common._numba import INLINED, OPTIONS

_SLOPE = 2.0 / math.sqrt(math.pi)  # of erf at the origin


@numba.njit(**INLINED)
def _screened(r, splitting, width, damping_reach):
    """``(erfc(splitting r) - erfc(r / width)) / r`` and its derivative divided by r."""
    x = splitting * r
    value = math.erfc(x)
    slope = -_SLOPE * splitting * math.exp(-x * x)
    if r < damping_reach * width:
        y = r / width
        value -= math.erfc(y)
        slope += _SLOPE / width * math.exp(-y * y)
    return value / r, (slope - value / r) / (r * r)


@numba.njit(**INLINED)
def _add_pair(i, j, x, y, z, value, slope, energy_n, force_nc, virial_cc):
    """Add a pair from i to j = i + (x, y, z); ``slope`` is the derivative over r."""
    energy_n[i] += 0.5 * value
    energy_n[j] += 0.5 * value
    fx, fy, fz = slope * x, slope * y, slope * z
    force_nc[i, 0] += fx
    force_nc[i, 1] += fy
    force_nc[i, 2] += fz
    force_nc[j, 0] -= fx
    force_nc[j, 1] -= fy
    force_nc[j, 2] -= fz
    virial_cc[0, 0] -= fx * x
    virial_cc[1, 1] -= fy * y
    virial_cc[2, 2] -= fz * z
    virial_cc[0, 1] -= fx * y
    virial_cc[0, 2] -= fx * z
    virial_cc[1, 2] -= fy * z


@numba.njit(**OPTIONS)
def all_pairs(
    position_nc, charge_n, kind_n, width_kk, damping_reach, energy_n, force_nc, virial_cc
):
    """Sum over all pairs of a finite system; of the virial the upper triangle is filled."""
    n_atoms = len(charge_n)
    for i in range(n_atoms):
        for j in range(i + 1, n_atoms):
            x = position_nc[j, 0] - position_nc[i, 0]
            y = position_nc[j, 1] - position_nc[i, 1]
            z = position_nc[j, 2] - position_nc[i, 2]
            r = math.sqrt(x * x + y * y + z * z)
            value, slope = _screened(r, 0.0, width_kk[kind_n[i], kind_n[j]], damping_reach)
            product = charge_n[i] * charge_n[j]
            _add_pair(
                i, j, x, y, z, product * value, product * slope, energy_n, force_nc, virial_cc
            )


@numba.njit(**OPTIONS)
def real_space(
    position_nc,
    charge_n,
    kind_n,
    first_b,
    bins_c,
    reach_c,
    cell,
    width_kk,
    splitting,
    r_real,
    damping_reach,
    energy_n,
    force_nc,
    virial_cc,
):
    """Sum over all pairs closer than ``r_real``, images included, without storing them.

    The atoms lie inside the cell, sorted by bin: those of bin
    ``(a bins[1] + b) bins[2] + c`` are ``first_b[bin] .. first_b[bin + 1] - 1``, and
    ``reach_c`` bins in each direction cover ``r_real``. Of two opposite offsets between
    bins one is visited.
    """
    limit = r_real * r_real
    n_a, n_b, n_c = bins_c[0], bins_c[1], bins_c[2]
    for home in range(n_a * n_b * n_c):
        start, stop = first_b[home], first_b[home + 1]
        if start == stop:
            continue
        a, b, c = home // (n_b * n_c), home // n_c % n_b, home % n_c
        for d_a in range(0, reach_c[0] + 1):
            low_b = 0 if d_a == 0 else -reach_c[1]
            s_a = (a + d_a) // n_a
            for d_b in range(low_b, reach_c[1] + 1):
                low_c = 0 if d_a == 0 and d_b == 0 else -reach_c[2]
                s_b = (b + d_b) // n_b
                for d_c in range(low_c, reach_c[2] + 1):
                    s_c = (c + d_c) // n_c
                    here = d_a == 0 and d_b == 0 and d_c == 0
                    other = ((a + d_a - s_a * n_a) * n_b + (b + d_b - s_b * n_b)) * n_c + (
                        c + d_c - s_c * n_c
                    )
                    shift_x = s_a * cell[0, 0] + s_b * cell[1, 0] + s_c * cell[2, 0]
                    shift_y = s_a * cell[0, 1] + s_b * cell[1, 1] + s_c * cell[2, 1]
                    shift_z = s_a * cell[0, 2] + s_b * cell[1, 2] + s_c * cell[2, 2]
                    for i in range(start, stop):
                        first_j = i + 1 if here else first_b[other]
                        for j in range(first_j, first_b[other + 1]):
                            x = position_nc[j, 0] - position_nc[i, 0] + shift_x
                            y = position_nc[j, 1] - position_nc[i, 1] + shift_y
                            z = position_nc[j, 2] - position_nc[i, 2] + shift_z
                            r2 = x * x + y * y + z * z
                            if r2 < limit:
                                value, slope = _screened(
                                    math.sqrt(r2),
                                    splitting,
                                    width_kk[kind_n[i], kind_n[j]],
                                    damping_reach,
                                )
                                product = charge_n[i] * charge_n[j]
                                value, slope = product * value, product * slope
                                _add_pair(
                                    i, j, x, y, z, value, slope, energy_n, force_nc, virial_cc
                                )


@numba.njit(**INLINED)
def _powers(angle, n_max, cosine, sine):
    """``exp(i n angle)`` for ``n = -n_max .. n_max``, at index ``n + n_max``."""
    step_re, step_im = math.cos(angle), math.sin(angle)
    re, im = 1.0, 0.0
    for n in range(n_max + 1):
        cosine[n_max + n], sine[n_max + n] = re, im
        cosine[n_max - n], sine[n_max - n] = re, -im
        re, im = re * step_re - im * step_im, re * step_im + im * step_re


@numba.njit(**OPTIONS)
def structure_factors(angle_nc, charge_n, row_rx, n_max_c, real_k, imag_k):
    """Add ``sum_n q_n exp(i k.r_n)`` of every wave vector.

    Wave vectors come in rows of consecutive third index: ``row_rx`` holds the first two
    indices, the lowest third index, the position of the row's first vector in the
    arrays and their number. ``angle_nc`` is 2 pi times the fractional coordinate.
    """
    m_a, m_b, m_c = n_max_c[0], n_max_c[1], n_max_c[2]
    cos_a, sin_a = np.empty(2 * m_a + 1), np.empty(2 * m_a + 1)
    cos_b, sin_b = np.empty(2 * m_b + 1), np.empty(2 * m_b + 1)
    cos_c, sin_c = np.empty(2 * m_c + 1), np.empty(2 * m_c + 1)
    for n in range(len(charge_n)):
        _powers(angle_nc[n, 0], m_a, cos_a, sin_a)
        _powers(angle_nc[n, 1], m_b, cos_b, sin_b)
        _powers(angle_nc[n, 2], m_c, cos_c, sin_c)
        for row in range(len(row_rx)):
            a, b, low = row_rx[row, 0] + m_a, row_rx[row, 1] + m_b, row_rx[row, 2] + m_c
            start, count = row_rx[row, 3], row_rx[row, 4]
            re = charge_n[n] * (cos_a[a] * cos_b[b] - sin_a[a] * sin_b[b])
            im = charge_n[n] * (cos_a[a] * sin_b[b] + sin_a[a] * cos_b[b])
            for t in range(count):
                real_k[start + t] += re * cos_c[low + t] - im * sin_c[low + t]
                imag_k[start + t] += re * sin_c[low + t] + im * cos_c[low + t]


@numba.njit(**OPTIONS)
def wave_fields(angle_nc, row_rx, n_max_c, real_k, imag_k, potential_n, gradient_nc):
    """Fill what a wave field does to each atom.

    With ``w_k = real_k + i imag_k``: ``potential_n = sum_k Re(conj(w_k) exp(i k.r_n))``,
    and its derivative by the three angles.
    """
    m_a, m_b, m_c = n_max_c[0], n_max_c[1], n_max_c[2]
    cos_a, sin_a = np.empty(2 * m_a + 1), np.empty(2 * m_a + 1)
    cos_b, sin_b = np.empty(2 * m_b + 1), np.empty(2 * m_b + 1)
    cos_c, sin_c = np.empty(2 * m_c + 1), np.empty(2 * m_c + 1)
    for n in range(len(potential_n)):
        _powers(angle_nc[n, 0], m_a, cos_a, sin_a)
        _powers(angle_nc[n, 1], m_b, cos_b, sin_b)
        _powers(angle_nc[n, 2], m_c, cos_c, sin_c)
        value, slope_a, slope_b, slope_c = 0.0, 0.0, 0.0, 0.0
        for row in range(len(row_rx)):
            index_a, index_b, index_c = row_rx[row, 0], row_rx[row, 1], row_rx[row, 2]
            a, b, low = index_a + m_a, index_b + m_b, index_c + m_c
            start, count = row_rx[row, 3], row_rx[row, 4]
            re, im, re_c, im_c = 0.0, 0.0, 0.0, 0.0
            for t in range(count):
                u = real_k[start + t] * cos_c[low + t] + imag_k[start + t] * sin_c[low + t]
                v = real_k[start + t] * sin_c[low + t] - imag_k[start + t] * cos_c[low + t]
                re += u
                im += v
                re_c += (index_c + t) * u
                im_c += (index_c + t) * v
            phase_re = cos_a[a] * cos_b[b] - sin_a[a] * sin_b[b]
            phase_im = cos_a[a] * sin_b[b] + sin_a[a] * cos_b[b]
            value += phase_re * re - phase_im * im
            imaginary = phase_re * im + phase_im * re
            slope_a -= index_a * imaginary
            slope_b -= index_b * imaginary
            slope_c -= phase_re * im_c + phase_im * re_c
        potential_n[n] = value
        gradient_nc[n, 0] = slope_a
        gradient_nc[n, 1] = slope_b
        gradient_nc[n, 2] = slope_c
