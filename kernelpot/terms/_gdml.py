r"""Matérn 5/2 between descriptors and directions at descriptors, over permutations, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``e`` environment, ``m`` point, ``f``
feature, ``q`` permutation: feature f of a permuted descriptor is feature ``index_qf[q, f]`` of the
descriptor. With :math:`D = x - P y`, r its length and ``a`` the square root of five over the length
scale,

.. math:: \partial_y k \cdot v = \tfrac{a^2}{3} (1 + a r) e^{-a r} \; D \cdot P v, \qquad
          H P v = \tfrac{a^2}{3} e^{-a r} [(1 + a r) P v - a^2 D (D \cdot P v)],

H being the mixed second derivative by x and y, and everything is averaged over permutations.
"""

import numba
import numpy as np

from kernelpot.common._numba import INLINED, OPTIONS


@numba.njit(**INLINED)
def _difference(x_f, y_f, index_f, out_f):
    """Fill the difference from a permuted descriptor; return its length."""
    square = 0.0
    for f in range(len(x_f)):
        d = x_f[f] - y_f[index_f[f]]
        out_f[f] = d
        square += d * d
    return np.sqrt(square)


@numba.njit(**OPTIONS)
def kernel(u_ef, v_ef, index_qf, a, out):
    """Fill the kernel of descriptors with each other."""
    d = np.empty(u_ef.shape[1])
    n = len(index_qf)
    for i in range(len(u_ef)):
        for j in range(len(v_ef)):
            total = 0.0
            for q in range(n):
                ar = a * _difference(u_ef[i], v_ef[j], index_qf[q], d)
                total += (1.0 + ar + ar * ar / 3.0) * np.exp(-ar)
            out[i, j] = total / n


@numba.njit(**OPTIONS)
def values(u_ef, x_mf, v_mf, index_qf, a, out_em):
    """Fill the covariance of descriptors with derivatives along directions."""
    d = np.empty(u_ef.shape[1])
    n = len(index_qf)
    for e in range(len(u_ef)):
        for m in range(len(x_mf)):
            total = 0.0
            for q in range(n):
                ar = a * _difference(u_ef[e], x_mf[m], index_qf[q], d)
                along = 0.0
                for f in range(len(d)):
                    along += d[f] * v_mf[m, index_qf[q, f]]
                total += (1.0 + ar) * np.exp(-ar) * along
            out_em[e, m] = total * a * a / (3.0 * n)


@numba.njit(**OPTIONS)
def add_slopes(u_f, x_mf, v_mf, index_qf, a, out_mf):
    """Add the derivatives of one descriptor's covariances, one row for each direction."""
    d = np.empty(len(u_f))
    factor = a * a / (3.0 * len(index_qf))
    for m in range(len(x_mf)):
        for q in range(len(index_qf)):
            ar = a * _difference(u_f, x_mf[m], index_qf[q], d)
            along = 0.0
            for f in range(len(d)):
                along += d[f] * v_mf[m, index_qf[q, f]]
            scale = factor * np.exp(-ar)
            of_v, of_d = scale * (1.0 + ar), scale * a * a * along
            for f in range(len(d)):
                out_mf[m, f] += of_v * v_mf[m, index_qf[q, f]] - of_d * d[f]


@numba.njit(**OPTIONS)
def mean(u_ef, x_mf, v_mf, index_qf, a, value_e, by_u_ef):
    """Add sums over all directions: value, and derivative by the descriptor."""
    d = np.empty(u_ef.shape[1])
    factor = a * a / (3.0 * len(index_qf))
    for e in range(len(u_ef)):
        for m in range(len(x_mf)):
            for q in range(len(index_qf)):
                ar = a * _difference(u_ef[e], x_mf[m], index_qf[q], d)
                along = 0.0
                for f in range(len(d)):
                    along += d[f] * v_mf[m, index_qf[q, f]]
                scale = factor * np.exp(-ar)
                of_v, of_d = scale * (1.0 + ar), scale * a * a * along
                value_e[e] += of_v * along
                for f in range(len(d)):
                    by_u_ef[e, f] += of_v * v_mf[m, index_qf[q, f]] - of_d * d[f]


@numba.njit(**OPTIONS)
def gram(x_mf, v_mf, index_qf, a, out_mm):
    """Fill the covariance of directions with each other."""
    d = np.empty(x_mf.shape[1])
    factor = a * a / (3.0 * len(index_qf))
    for i in range(len(x_mf)):
        for j in range(i + 1):
            total = 0.0
            for q in range(len(index_qf)):
                ar = a * _difference(x_mf[i], x_mf[j], index_qf[q], d)
                left = right = both = 0.0
                for f in range(len(d)):
                    w = v_mf[j, index_qf[q, f]]
                    left += d[f] * v_mf[i, f]
                    right += d[f] * w
                    both += v_mf[i, f] * w
                total += np.exp(-ar) * ((1.0 + ar) * both - a * a * left * right)
            out_mm[i, j] = out_mm[j, i] = factor * total


@numba.njit(**INLINED)
def _permuted(x_mf, index_f, out_mf):
    """Fill descriptors with their features permuted."""
    for m in range(x_mf.shape[0]):
        for f in range(x_mf.shape[1]):
            out_mf[m, f] = x_mf[m, index_f[f]]


@numba.njit(**OPTIONS)
def times(x_mf, v_mf, index_qf, a, out_mf):
    """Add the matrix of all H between descriptors, times one direction at each.

    Symmetric: each pair of descriptors is looked at once.
    """
    y_mf, w_mf, back_mf = np.empty_like(x_mf), np.empty_like(x_mf), np.empty_like(x_mf)
    n_f = x_mf.shape[1]
    factor = a * a / (3.0 * len(index_qf))
    for q in range(len(index_qf)):
        _permuted(x_mf, index_qf[q], y_mf)
        _permuted(v_mf, index_qf[q], w_mf)
        back_mf[:] = 0.0
        for i in range(x_mf.shape[0]):
            x, v, out = x_mf[i], v_mf[i], out_mf[i]
            for j in range(i + 1):
                y, w, back = y_mf[j], w_mf[j], back_mf[j]
                square = left = right = 0.0
                for f in range(n_f):
                    d = x[f] - y[f]
                    square += d * d
                    left += d * v[f]
                    right += d * w[f]
                ar = a * np.sqrt(square)
                scale = factor * np.exp(-ar)
                of_v, of_d = scale * (1.0 + ar), scale * a * a
                right *= of_d
                left *= of_d
                if i == j:
                    for f in range(n_f):
                        out[f] += of_v * w[f] - right * (x[f] - y[f])
                else:
                    for f in range(n_f):
                        d = x[f] - y[f]
                        out[f] += of_v * w[f] - right * d
                        back[f] += of_v * v[f] - left * d
        for m in range(x_mf.shape[0]):
            for f in range(n_f):
                out_mf[m, index_qf[q, f]] += back_mf[m, f]


@numba.njit(**OPTIONS)
def across(x_ef, x_mf, v_mf, index_qf, a, out_ef):
    """Add all H between some descriptors and others, times one direction at each of these."""
    y_mf, w_mf = np.empty_like(x_mf), np.empty_like(x_mf)
    n_f = x_mf.shape[1]
    factor = a * a / (3.0 * len(index_qf))
    for q in range(len(index_qf)):
        _permuted(x_mf, index_qf[q], y_mf)
        _permuted(v_mf, index_qf[q], w_mf)
        for e in range(len(x_ef)):
            x, out = x_ef[e], out_ef[e]
            for m in range(len(x_mf)):
                y, w = y_mf[m], w_mf[m]
                square = right = 0.0
                for f in range(n_f):
                    d = x[f] - y[f]
                    square += d * d
                    right += d * w[f]
                ar = a * np.sqrt(square)
                scale = factor * np.exp(-ar)
                of_v = scale * (1.0 + ar)
                right *= scale * a * a
                for f in range(n_f):
                    out[f] += of_v * w[f] - right * (x[f] - y[f])
