"""Derivatives of several energies by features, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``e`` environment, ``f`` feature, ``m``
member.
"""

import numba
import numpy as np

from kernelpot.common._numba import OPTIONS


@numba.njit(**OPTIONS)
def to_features(by_u_efm, u_ef, norm_e, own_em):
    """Turn derivatives by embedded features into those by features, in place.

    ``own_em`` receives their part along the environments' own embedded features, which is taken
    off; what is left is divided by ``norm_e``.
    """
    n_features, n_members = by_u_efm.shape[1], by_u_efm.shape[2]
    own = np.empty(n_members)
    single = np.empty(n_members, dtype=np.float32)
    for e in range(by_u_efm.shape[0]):
        own[:] = 0.0
        for f in range(n_features):
            u = u_ef[e, f]
            for m in range(n_members):
                own[m] += u * by_u_efm[e, f, m]
        for m in range(n_members):
            own_em[e, m] = own[m]
            single[m] = own[m]
        scale = np.float32(1.0 / norm_e[e])
        for f in range(n_features):
            u32 = np.float32(u_ef[e, f])
            for m in range(n_members):
                by_u_efm[e, f, m] = scale * (by_u_efm[e, f, m] - u32 * single[m])
