"""The one LAPACK routine SciPy's wrapper runs with the interpreter locked.

Annihilating rows takes a good part of a fit; called through SciPy's Cython interface it
leaves the other threads free to build the next rows, and works on parts of a matrix.
"""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np

from kernelpot.common.types import FloatArray


@lru_cache(maxsize=1)
def _routine() -> Any:
    from numba.extending import get_cython_function_address

    address = get_cython_function_address("scipy.linalg.cython_lapack", "dtpqrt")
    # a foreign function of this type releases the interpreter lock while it runs
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 12)(address)


def dtpqrt(a: FloatArray, b: FloatArray, block: int) -> None:
    """Annihilate the rows of `b` into the upper triangle `a`, both in place.

    Parameters
    ----------
    a : ndarray of shape (n, n)
        Columns contiguous (Fortran order, or a part of such a matrix); only its upper
        triangle is read and written.
    b : ndarray of shape (m, n)
        As `a`; destroyed.
    block : int
        Columns annihilated together, at most n.

    Raises
    ------
    numpy.linalg.LinAlgError
        If LAPACK refuses.
    """
    n = len(a)
    double = a.itemsize
    if a.strides[0] != double or b.strides[0] != double or b.shape[1] != n:
        raise ValueError("dtpqrt needs matrices with contiguous columns and equal width")
    size = [
        ctypes.c_int(value)
        for value in (len(b), n, 0, block, a.strides[1] // double, b.strides[1] // double, block, 0)
    ]
    m, columns, trapezoid, nb, lda, ldb, ldt, info = map(ctypes.byref, size)
    reflectors = np.empty((block, n), order="F")
    work = np.empty(block * n)
    _routine()(
        m, columns, trapezoid, nb, a.ctypes.data, lda, b.ctypes.data, ldb,
        reflectors.ctypes.data, ldt, work.ctypes.data, info,
    )  # fmt: skip
    if size[-1].value != 0:
        raise np.linalg.LinAlgError(f"QR update failed (LAPACK dtpqrt, info={size[-1].value})")
