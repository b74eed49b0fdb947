"""From derivatives by embedded features to those by features, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``e`` environment, ``f`` feature.
"""

import numba

from kernelpot.common._numba import OPTIONS


@numba.njit(**OPTIONS)
def to_features(by_u_ef, own_e, u_ef, norm_e, row_e, by_x_ef):
    """Fill rows of ``by_x_ef`` with ``(by_u - own u) / norm``.

    ``u_ef`` and ``norm_e`` have a row for each of ``by_x_ef``, the other arrays one for each of
    ``row_e``. ``by_x_ef`` may be ``by_u_ef`` where these are all, in order.
    """
    for e in range(row_e.shape[0]):
        row = row_e[e]
        own, scale = own_e[e], 1.0 / norm_e[row]
        by_u_f, u_f, by_x_f = by_u_ef[e], u_ef[row], by_x_ef[row]
        for f in range(u_f.shape[0]):
            by_x_f[f] = scale * (by_u_f[f] - own * u_f[f])
