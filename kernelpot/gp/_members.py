"""Derivatives of several energies by features, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``e`` environment, ``f`` feature, ``m``
member.
"""

import numba
import numpy as np

from kernelpot.common._numba import OPTIONS


@numba.njit(**OPTIONS)
def own_parts(by_u_efm, u_ef, own_em):
    """Fill ``own_em`` with the derivatives' part along the environments' own features."""
    own = np.empty(by_u_efm.shape[2])
    for e in range(by_u_efm.shape[0]):
        own[:] = 0.0
        for f in range(by_u_efm.shape[1]):
            u = u_ef[e, f]
            for m in range(by_u_efm.shape[2]):
                own[m] += u * by_u_efm[e, f, m]
        own_em[e] = own


@numba.njit(**OPTIONS)
def to_features(by_u_efm, own_em, u_ef, norm_e):
    """Turn derivatives by embedded features into those by features, in place."""
    n_members = by_u_efm.shape[2]
    own = np.empty(n_members, dtype=np.float32)
    for e in range(by_u_efm.shape[0]):
        for m in range(n_members):
            own[m] = own_em[e, m]
        scale = np.float32(1.0 / norm_e[e])
        for f in range(by_u_efm.shape[1]):
            u = np.float32(u_ef[e, f])
            for m in range(n_members):
                by_u_efm[e, f, m] = scale * (by_u_efm[e, f, m] - u * own[m])
