"""How close atoms of each pair of species come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import covalent_radii

from kernelpot.common.types import Pair
from kernelpot.data.dataset import Dataset
from kernelpot.data.neighbors import by_species, neighbor_list


def contact_distances(data: Dataset, species: Sequence[int]) -> dict[Pair, float]:
    """Distance of closest approach of every pair of species.

    Parameters
    ----------
    data : Dataset
    species : sequence of int
        Atomic numbers.

    Returns
    -------
    dict of (Z, Z') to float
        The shortest distance in the data, at most 0.95 of the sum of covalent radii; 0.8
        of that sum for a pair that the data do not have [Å].
    """
    shortest = shortest_distances(data)
    result = {}
    for a in sorted(species):
        for b in sorted(species):
            if a <= b:
                touching = float(covalent_radii[a] + covalent_radii[b])
                seen = shortest.get((a, b))
                result[a, b] = 0.8 * touching if seen is None else min(seen, 0.95 * touching)
    return result


def shortest_distances(data: Dataset, limit: float = 4.0) -> dict[Pair, float]:
    """Shortest distance of each pair of species below `limit` in the data [Å]."""
    result: dict[Pair, float] = {}
    for frame in data:
        pairs = neighbor_list(frame.atoms, limit)
        if not pairs.n_pairs:
            continue
        distance = np.linalg.norm(pairs.displacements(frame.atoms.positions), axis=1)
        everything = np.arange(pairs.n_pairs)
        for key, members in by_species(frame.atoms.numbers, pairs, everything):
            nearest = float(distance[members].min())
            result[key] = min(nearest, result.get(key, np.inf))
    return result
