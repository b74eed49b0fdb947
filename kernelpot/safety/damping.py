"""How nearness damps local energies: the factors D of the safety net (`kernelpot.safety.gate`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kernelpot.common.smoothstep import smoothstep
from kernelpot.common.types import FloatArray, IntArray, Pair
from kernelpot.data.neighbors import NeighborList

# D rises from 0 to 1 between these fractions of the shortest training distance.
DAMPING_INNER, DAMPING_OUTER = 0.5, 0.7


@dataclass(frozen=True)
class Damping:
    """How much the neighbors' nearness leaves of each local energy.

    Attributes
    ----------
    keep : ndarray of shape (n_atoms,)
        Product of D, 0 to 1.
    pairs, centers : ndarray of shape (n_close,)
        The pairs it depends on, and the center of each.
    slopes : ndarray of shape (n_close,)
        Derivative of the center's `keep` by the distance [1/Å].
    """

    keep: FloatArray
    pairs: IntArray
    centers: IntArray
    slopes: FloatArray


def damping(
    d_min_of: Mapping[Pair, float], numbers: IntArray, pairs: NeighborList, distances: FloatArray
) -> Damping | None:
    """Product over neighbors of D(r) of every atom; None where it is 1 everywhere.

    Parameters
    ----------
    d_min_of : mapping of (Z, Z') to float
        Distances that scale the damping [Å]; empty without a wall.
    numbers : ndarray of shape (n_atoms,)
        Atomic numbers.
    pairs : NeighborList
    distances : ndarray of shape (n_pairs,)
        [Å].

    Returns
    -------
    Damping or None
    """
    if not d_min_of:
        return None
    close = np.flatnonzero(distances < DAMPING_OUTER * max(d_min_of.values()))
    if not len(close):
        return None
    centers = np.searchsorted(pairs.first, close, side="right") - 1
    z1, z2 = numbers[centers], numbers[pairs.neighbors[close]]
    d_min = np.array(
        [d_min_of[min(a, b), max(a, b)] for a, b in zip(z1.tolist(), z2.tolist(), strict=True)]
    )
    inner, outer = DAMPING_INNER * d_min, DAMPING_OUTER * d_min
    step, slope = smoothstep((distances[close] - inner) / (outer - inner))
    if np.all(step == 1.0):
        return None
    slope /= outer - inner
    keep = np.ones(len(numbers))
    np.multiply.at(keep, centers, step)
    others = np.ones(len(close))  # the product without the pair's own factor
    for p in np.flatnonzero(slope):
        same = np.flatnonzero(centers == centers[p])
        others[p] = np.prod(step[same[same != p]])
    return Damping(keep, close, centers, slope * others)
