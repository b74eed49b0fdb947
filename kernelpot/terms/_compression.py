"""Derivatives by features from those along directions, compiled.

Arrays in, arrays filled in place; no checks. Suffixes: ``m`` scalar, ``e`` environment, ``f``
feature, ``k`` feature that directions have a part of.
"""

import numba

from kernelpot.common._numba import OPTIONS


@numba.njit(**OPTIONS)
def scatter(along_mek, factor_me, x_ef, row_e, column_k, out_mef):
    """Fill ``out_mef[m, row_e[e]]``: ``factor_me x``, and at ``column_k`` also ``along_mek``."""
    n_columns = column_k.shape[0]
    all_columns = n_columns == x_ef.shape[1]
    for m in range(along_mek.shape[0]):
        for e in range(row_e.shape[0]):
            row = row_e[e]
            factor = factor_me[m, e]
            if all_columns:
                for f in range(n_columns):
                    out_mef[m, row, f] = factor * x_ef[row, f] + along_mek[m, e, f]
            else:
                for f in range(x_ef.shape[1]):
                    out_mef[m, row, f] = factor * x_ef[row, f]
                for k in range(n_columns):
                    out_mef[m, row, column_k[k]] += along_mek[m, e, k]
