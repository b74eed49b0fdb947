"""Choosing the monomials of terms that are polynomials, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.regression.selection import MINIMUM_PER_CLASS
from kernelpot.terms.polynomial import leading_monomials, n_monomials


def available_monomials(scales: FloatArray, degree: int) -> IntArray:
    """Number of monomials of each class, shape (n_keys,).

    Parameters
    ----------
    scales : ndarray of shape (n_keys, n_features)
        Root mean square of each feature.
    degree : int
    """
    counts = np.count_nonzero(scales, axis=1)
    return np.array([n_monomials(int(n), degree) for n in counts], dtype=np.int64)


def choose_monomials(
    scales: FloatArray, abundance: IntArray, degree: int, n: int
) -> Sequence[IntArray]:
    r"""The monomials of largest prior scale, all classes together.

    The prior of the data's energies has :math:`n_k \langle f_m^2 \rangle` of a monomial of a
    class with :math:`n_k` environments. Each class has at least `MINIMUM_PER_CLASS` (or all
    there are).

    Parameters
    ----------
    scales : ndarray of shape (n_keys, n_features)
        Root mean square of each feature, descending.
    abundance : ndarray of shape (n_keys,)
        Environments of each class.
    degree : int
    n : int
        Number wanted.

    Returns
    -------
    list of ndarray of shape (n_monomials, degree)
        Of each class, the largest first.
    """
    found = [leading_monomials(own, degree) for own in scales]
    ranked = [
        (scale * np.sqrt(count), np.arange(len(scale)), np.full(len(scale), k))
        for k, ((_, scale), count) in enumerate(zip(found, abundance, strict=True))
    ]
    scale, place, key = (np.concatenate(column) for column in zip(*ranked, strict=True))
    needed = place < MINIMUM_PER_CLASS
    order = np.lexsort((place, key, -scale, ~needed))[: max(n, int(needed.sum()))]
    return [index[np.sort(place[order][key[order] == k])] for k, (index, _) in enumerate(found)]
