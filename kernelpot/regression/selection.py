"""Choosing sparse points among environments, class by class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kernelpot.common.types import FloatArray, IntArray

# Every class of environments (species, pair of species) gets at least this many sparse points
# (or all it has).
MINIMUM_PER_CLASS = 20


def environment_keys(unit: FloatArray, decimals: int = 8) -> list[bytes]:
    """Short keys, equal where features are equal to so many decimals."""
    rounded = np.round(unit, decimals) + 0.0  # no negative zero
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rounded]


def first_of_each(keys: list[bytes]) -> IntArray:
    """Index of the first occurrence of each key, ascending."""
    first: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return np.array(list(first.values()), dtype=np.int64)


def _squares(
    u: npt.NDArray[np.floating[Any]], squares: npt.NDArray[np.floating[Any]] | None
) -> npt.NDArray[np.float32]:
    """Squared lengths in single precision, computed unless they are given."""
    found = np.einsum("ef,ef->e", u, u, dtype=np.float64) if squares is None else squares
    return np.asarray(found, dtype=np.float32)


def farthest_point(
    u: npt.NDArray[np.floating[Any]],
    n: int,
    squares: npt.NDArray[np.floating[Any]] | None = None,
) -> IntArray:
    """Farthest-point sampling: each point is as far as possible from those before.

    Starts from the environment farthest from the mean, so the result does not depend
    on the order of the data beyond ties.

    Parameters
    ----------
    u : ndarray of shape (n_env, n_features)
    n : int
        Number wanted, at most n_env.
    squares : ndarray of shape (n_env,), optional
        Squared lengths, where they are known exactly (unit vectors).

    Returns
    -------
    ndarray of shape (n,)
        Indices in the order of choice.
    """
    points = np.ascontiguousarray(u, dtype=np.float32)
    lengths = _squares(u, squares)
    chosen = np.empty(n, dtype=np.int64)
    chosen[0] = (points @ points.mean(axis=0) - np.float32(0.5) * lengths).argmin()
    distance = np.full(len(points), np.inf, dtype=np.float32)
    for k in range(1, n):
        last = chosen[k - 1]
        both = lengths + lengths[last]
        np.minimum(distance, both - 2.0 * (points @ points[last]), out=distance)
        distance[chosen[k - 1]] = -np.inf
        chosen[k] = distance.argmax()
    return chosen


def farthest_from(
    u: FloatArray,
    existing: FloatArray,
    n: int,
    squares: FloatArray | None = None,
    squares_existing: FloatArray | None = None,
) -> tuple[IntArray, npt.NDArray[np.float32]]:
    """Farthest-point sampling that continues from points chosen before.

    Parameters
    ----------
    u : ndarray of shape (n_env, n_features)
    existing : ndarray of shape (n_existing, n_features)
        Points to stay away from.
    n : int
        Number wanted, at most n_env.
    squares, squares_existing : ndarray, optional
        Squared lengths of both, where they are known exactly.

    Returns
    -------
    chosen : ndarray of shape (n,)
        Indices in the order of choice.
    distance : ndarray of shape (n,)
        Squared distance of each from all points before it; does not grow.
    """
    points = np.ascontiguousarray(u, dtype=np.float32)
    lengths = _squares(u, squares)
    others = np.float32(0.5) * _squares(existing, squares_existing)
    if len(existing):
        distance = lengths - 2.0 * (points @ existing.T.astype(np.float32) - others).max(axis=1)
    else:
        distance = np.full(len(points), np.inf, dtype=np.float32)
    chosen = np.empty(n, dtype=np.int64)
    at = np.empty(n, dtype=np.float32)
    for k in range(n):
        chosen[k] = distance.argmax()
        at[k] = distance[chosen[k]]
        both = lengths + lengths[chosen[k]]
        np.minimum(distance, both - 2.0 * (points @ points[chosen[k]]), out=distance)
        distance[chosen[k]] = -np.inf
    return chosen, at


def cur(unit: npt.NDArray[np.floating[Any]], n: int, *, seed: int = 0) -> IntArray:
    """Rows with the largest leverage in the leading singular subspace (CUR) [1]_.

    References
    ----------
    .. [1] Mahoney, Drineas, PNAS 106, 697 (2009).
    """
    from sklearn.utils.extmath import randomized_svd

    rank = max(1, min(n, min(unit.shape) - 1))
    u, _, _ = randomized_svd(unit, rank, random_state=seed)
    leverage = np.einsum("ek,ek->e", u, u)
    rng = np.random.default_rng(seed)
    # sampling without replacement, probability proportional to leverage
    keys = np.log(np.maximum(leverage, 1e-300)) + rng.gumbel(size=len(leverage))
    return np.argsort(-keys)[:n].astype(np.int64)


def kmeans(unit: npt.NDArray[np.floating[Any]], n: int, *, seed: int = 0) -> IntArray:
    """Environments nearest to the centers of k-means clusters."""
    from sklearn.cluster import MiniBatchKMeans

    if n >= len(unit):
        return np.arange(len(unit))
    model = MiniBatchKMeans(n, random_state=seed, n_init=1, batch_size=4096)
    model.fit(unit)
    label = model.labels_
    distance = np.linalg.norm(unit - model.cluster_centers_[label], axis=1)
    order = np.lexsort((distance, label))
    _, first = np.unique(label[order], return_index=True)
    chosen = order[first]
    if len(chosen) < n:  # empty clusters: fill up with the worst represented
        rest = np.setdiff1d(np.argsort(-distance), chosen, assume_unique=True)
        rest = rest[np.argsort(-distance[rest])]
        chosen = np.concatenate([chosen, rest[: n - len(chosen)]])
    return chosen.astype(np.int64)


def random(unit: npt.NDArray[np.floating[Any]], n: int, *, seed: int = 0) -> IntArray:
    """Environments drawn at random without replacement."""
    return np.random.default_rng(seed).permutation(len(unit))[:n].astype(np.int64)


def select(
    u: npt.NDArray[np.floating[Any]],
    n: int,
    method: str,
    *,
    squares: npt.NDArray[np.floating[Any]] | None = None,
    seed: int = 0,
) -> IntArray:
    """Choose `n` environments by the named method.

    Parameters
    ----------
    u : ndarray of shape (n_env, n_features)
        Features, between which distances mean something.
    n : int
    method : {"farthest_point", "cur", "kmeans", "random"}
    squares : ndarray of shape (n_env,), optional
        Their squared lengths, where they are known exactly.
    seed : int

    Raises
    ------
    ValueError
        If the method is unknown or there are fewer than `n` environments.
    """
    if n > len(u):
        raise ValueError(f"cannot choose {n} sparse points from {len(u)} environments")
    if n == 0:
        return np.empty(0, dtype=np.int64)
    if method == "farthest_point":
        return farthest_point(u, n, squares)
    seeded = {"cur": cur, "kmeans": kmeans, "random": random}
    if method not in seeded:
        raise ValueError(f"unknown selection method {method!r}")
    return seeded[method](u, n, seed=seed)


def quotas(n_sparse: int, available: Mapping[int, int]) -> dict[int, int]:
    """Share sparse points among classes of environments.

    Every class gets `MINIMUM_PER_CLASS` (or all it has); the rest goes in
    proportion to the square root of the number of distinct environments, what a
    class cannot use to the others.

    Parameters
    ----------
    n_sparse : int
        Total wanted; at most the sum of `available`.
    available : mapping of class to int
        Distinct environments of each.
    """
    minimum = {z: min(MINIMUM_PER_CLASS, count) for z, count in available.items()}
    total = max(n_sparse, sum(minimum.values()))
    total = min(total, sum(available.values()))
    share = {z: float(m) for z, m in minimum.items()}
    weight = {z: np.sqrt(count) for z, count in available.items()}
    # water filling: raise one common level until the total is used
    low, high = 0.0, float(max(total, 1))
    for _ in range(100):
        level = 0.5 * (low + high)
        share = {
            z: min(float(available[z]), max(float(minimum[z]), level * weight[z]))
            for z in available
        }
        if sum(share.values()) > total:
            high = level
        else:
            low = level
    result = {z: int(np.floor(s + 1e-9)) for z, s in share.items()}
    by_remainder = sorted(available, key=lambda z: (result[z] - share[z], z))
    for z in by_remainder * 2:
        if sum(result.values()) >= total:
            break
        if result[z] < available[z]:
            result[z] += 1
    return result
