"""Atom-centered symmetry functions with their derivatives, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``p`` pair, ``c`` Cartesian, ``e``
environment, ``f`` feature, ``z`` species index; ``g2_k2`` has eta and R_s, ``g3_k`` kappa,
``g4_k3`` and ``g5_k3`` eta, zeta and lambda. Features are ordered as dscribe orders them: per
species G1, G2, G3, then per pair of species G4, G5.
"""

import numba
import numpy as np

from kernelpot.common._numba import INLINED, OPTIONS


@numba.njit(**INLINED)
def _cutoff(r, r_cut):
    """Return the cosine cutoff and its slope; zero beyond."""
    if r >= r_cut:
        return 0.0, 0.0
    x = np.pi / r_cut
    return 0.5 * (np.cos(x * r) + 1.0), -0.5 * x * np.sin(x * r)


@numba.njit(**INLINED)
def _angular(cosine, zeta, sign):
    """Return ``2^(1 - zeta) (1 + sign cosine)^zeta`` and its derivative by the cosine."""
    base = max(0.5 * (1.0 + sign * cosine), 0.0)
    power = base ** (zeta - 1.0)
    return 2.0 * power * base, zeta * sign * power


@numba.njit(**OPTIONS)
def expand(
    first_i,
    start,
    stop,
    neighbor_p,
    displacement_pc,
    distance_p,
    z_i,
    n_z,
    r_cut,
    g2_k2,
    g3_k,
    g4_k3,
    g5_k3,
    x_ef,
    jacobian_pcf,
):
    """Add to the features of a run of centers, and to their derivatives by displacements.

    Pair p of the Jacobian is the p-th of the run; it may be empty.
    """
    n2, n3, n4, n5 = len(g2_k2), len(g3_k), len(g4_k3), len(g5_k3)
    n_radial, n_angular = 1 + n2 + n3, n4 + n5
    with_jacobian = jacobian_pcf.shape[0] > 0
    p0 = first_i[start]
    for i in range(start, stop):
        e = i - start
        for p in range(first_i[i], first_i[i + 1]):
            r = distance_p[p]
            if r >= r_cut:
                continue
            cut, cut_slope = _cutoff(r, r_cut)
            at = z_i[neighbor_p[p]] * n_radial
            for k in range(n_radial):
                if k == 0:
                    value, slope = cut, cut_slope
                elif k <= n2:
                    eta, d = g2_k2[k - 1, 0], r - g2_k2[k - 1, 1]
                    g = np.exp(-eta * d * d)
                    value, slope = g * cut, g * (cut_slope - 2.0 * eta * d * cut)
                else:
                    kappa = g3_k[k - 1 - n2]
                    g = np.cos(kappa * r)
                    value, slope = g * cut, g * cut_slope - kappa * np.sin(kappa * r) * cut
                x_ef[e, at + k] += value
                if with_jacobian:
                    for c in range(3):
                        jacobian_pcf[p - p0, c, at + k] += slope * displacement_pc[p, c] / r
            if n_angular == 0:
                continue
            for q in range(p + 1, first_i[i + 1]):
                s = distance_p[q]
                if s >= r_cut:
                    continue
                dot, square = 0.0, 0.0
                for c in range(3):
                    dot += displacement_pc[p, c] * displacement_pc[q, c]
                    d = displacement_pc[q, c] - displacement_pc[p, c]
                    square += d * d
                t = np.sqrt(square)
                cosine = dot / (r * s)
                cut_q, slope_q = _cutoff(s, r_cut)
                cut_t, slope_t = _cutoff(t, r_cut)
                a, b = z_i[neighbor_p[p]], z_i[neighbor_p[q]]
                if a < b:
                    a, b = b, a
                at = n_z * n_radial + (a * (a + 1) // 2 + b) * n_angular
                for k in range(n_angular):
                    if k < n4:
                        if t >= r_cut:
                            continue
                        eta, zeta, sign = g4_k3[k, 0], g4_k3[k, 1], g4_k3[k, 2]
                        gauss = np.exp(-eta * (r * r + s * s + t * t))
                        c1, c2, c3 = cut_q * cut_t, cut * cut_t, cut * cut_q
                        cuts = cut * c1
                        by_t = gauss * (c3 * slope_t - 2.0 * eta * t * cuts)
                    else:
                        eta, zeta, sign = g5_k3[k - n4, 0], g5_k3[k - n4, 1], g5_k3[k - n4, 2]
                        gauss = np.exp(-eta * (r * r + s * s))
                        c1, c2 = cut_q, cut
                        cuts = cut * cut_q
                        by_t = 0.0
                    angular, by_cosine = _angular(cosine, zeta, sign)
                    x_ef[e, at + k] += angular * gauss * cuts
                    if not with_jacobian:
                        continue
                    by_r = angular * gauss * (cut_slope * c1 - 2.0 * eta * r * cuts)
                    by_s = angular * gauss * (slope_q * c2 - 2.0 * eta * s * cuts)
                    by_t *= angular
                    by_cosine *= gauss * cuts
                    for c in range(3):
                        u, v = displacement_pc[p, c], displacement_pc[q, c]
                        across = by_t * (v - u) / t
                        jacobian_pcf[p - p0, c, at + k] += (
                            by_r * u / r + by_cosine * (v / (r * s) - cosine * u / (r * r)) - across
                        )
                        jacobian_pcf[q - p0, c, at + k] += (
                            by_s * v / s + by_cosine * (u / (r * s) - cosine * v / (s * s)) + across
                        )
